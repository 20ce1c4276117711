"""Where the GGUF file of a base is; `from_gguf` reads it."""

from pathlib import Path

from onepass.core.errors import OnepassError


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that `path` is, or that the folder `path` holds instead of a model folder's
    files; None if there is none.

    Raises:
        OnepassError: the folder holds several.
    """
    if path.is_file():
        return path if path.suffix.lower() == ".gguf" else None
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return None
    found = sorted(path.glob("*.gguf"))
    if len(found) > 1:
        raise OnepassError(
            f"{path} holds {len(found)} GGUF files ({', '.join(each.name for each in found[:5])}"
            f"{', ...' if len(found) > 5 else ''}); name the one that is the base"
        )
    return found[0] if found else None
