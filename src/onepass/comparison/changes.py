"""Changing fields of a recipe from the command line, so that one file serves many models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from onepass.comparison.recipe import recipe_fields, with_tasks_from
from onepass.core.errors import OnepassError
from onepass.tasks.corpus import CORPORA

_PATHS = ("base", "corpus", "adapters", "tasks_from")
"""Fields that hold paths, also where they are inside another."""


def changed_text(text: str, path: Path, changes: Sequence[str]) -> str:
    """A recipe's text with some fields set: FIELD=VALUE, or FIELD.KEY=VALUE for what is inside.

    A VALUE is YAML; paths in it are relative to where the command is run, and become absolute.
    The tasks of a file of `tasks_from` are put in its place, for the text will be read from another
    folder. Where nothing changes the text is returned as it is, comments and all.
    """
    data = recipe_fields(text, path)
    if not changes and "tasks_from" not in data:
        return text
    for change in changes:
        place, equals, value = change.partition("=")
        keys = place.split(".")
        if not equals or not all(keys):
            raise OnepassError(f"--set {change}: write FIELD=VALUE, such as base=MODEL_FOLDER")
        try:
            new = yaml.safe_load(value)
        except (yaml.YAMLError, RecursionError) as error:
            raise OnepassError(f"--set {change}: the value is not YAML") from error
        inside = data
        for depth, key in enumerate(keys[:-1], start=1):
            inside = inside.setdefault(key, {})
            if not isinstance(inside, dict):
                outer = ".".join(keys[:depth])
                raise OnepassError(f"--set {change}: {outer} is {inside!r:.60}, with no fields")
        path_field = next((key for key in keys if key in _PATHS), None)
        inside[keys[-1]] = _from_here(new, path_field) if path_field else new
    return yaml.safe_dump(with_tasks_from(data, path), sort_keys=False, allow_unicode=True)


def _from_here(value: Any, field: str) -> Any:
    """The paths in a value of this field, absolute; names of models and corpora stay."""
    if isinstance(value, dict):
        return {key: _from_here(each, field) for key, each in value.items()}
    if isinstance(value, list):
        return [_from_here(each, field) for each in value]
    if not isinstance(value, str) or value in ("tiny", "smalltown"):
        return value
    kind, colon, rest = value.partition(":") if value.partition(":")[0] in CORPORA else ("", "", "")
    path = Path(rest or value).expanduser()
    is_path = field == "adapters" or path.exists() or value.startswith((".", "~"))
    return f"{kind}{colon}{path.absolute()}" if is_path else value
