"""Checked JSON: manifests read as pydantic models, and what they may point to. No torch."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from onepass.core.errors import OnepassError
from onepass.core.files import read_json

Manifest = TypeVar("Manifest", bound=BaseModel)


def read_manifest(kind: type[Manifest], path: Path) -> Manifest:
    """The JSON file `path` as a `kind`; an `OnepassError` naming the field that does not fit."""
    data = read_json(path)
    try:
        return kind.model_validate(data)
    except OnepassError as error:
        raise OnepassError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole file"
        found = repr(first["input"])[:60]
        raise OnepassError(f"{path}, field {field}: {first['msg']} (found {found})") from error
