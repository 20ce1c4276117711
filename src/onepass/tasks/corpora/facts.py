"""What is known of a public corpus: licence, citation, sizes, checksums; and files held to it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from onepass.core.files import sha256
from onepass.tasks.corpora.files import ENDINGS


@dataclass(frozen=True)
class Facts:
    """The content of facts/NAME.yaml.

    `hub` is the hub's data set, OWNER/NAME or OWNER/NAME@REVISION; None if there is none. `rows`
    are the sizes a split may have: upstream's, and the hub's where that differs. `files` are those
    of upstream with their sha256, None where it is not known. `unverified`: what is not checked.
    """

    title: str
    tasks: tuple[str, ...]
    licence: str
    citation: str
    homepage: str
    upstream: str = ""
    hub: str | None = None
    rows: dict[str, list[int]] | None = None
    files: dict[str, str | None] | None = None
    unverified: str = ""

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield the facts that there are, each with its name."""
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if field.name == "tasks":
                yield "tasks", ", ".join(value)
            elif field.name == "rows" and value:
                yield "rows", ", ".join(f"{split} {sizes(value[split])}" for split in value)
            elif field.name == "files" and value:
                for name, digest in value.items():
                    yield "file", f"{name}, sha256 {digest or 'unknown'}"
            elif value:
                yield field.name, " ".join(value.split())


def sizes(counts: list[int]) -> str:
    return " or ".join(f"{count:,}" for count in counts)


@cache
def facts_of(name: str) -> Facts:
    """The facts of the registered corpus `name`."""
    text = resources.files(__package__).joinpath("facts", f"{name}.yaml").read_text("utf-8")
    row = yaml.safe_load(text)
    return Facts(**{**row, "tasks": tuple(row["tasks"])})


def data_files(path: Path) -> list[Path]:
    """The data files at or under `path`; links to folders are not followed."""
    if not path.is_dir():
        return [path]
    found = (Path(folder, name) for folder, _, names in os.walk(path) for name in sorted(names))
    return sorted(file for file in found if file.suffix.lower() in ENDINGS)


def checksum(path: Path, facts: Facts) -> str:
    """How a file compares with upstream's of that name."""
    known = facts.files or {}
    if path.name not in known:
        return "unknown: no upstream file of that name"
    wanted = known[path.name]
    if wanted is None:
        return "unknown: upstream's is not recorded"
    return "matches" if sha256(path) == wanted else f"differs: upstream's is {wanted}"
