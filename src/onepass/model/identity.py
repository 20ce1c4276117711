"""What a model is known by: a short hash of its files' content, never of where they lie."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from onepass.model.assets import TINY

_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.gguf", "tokenizer*", "*.jinja"),
    *("vocab*.json", "*.spm", "sentencepiece*"),
)


def model_identity(name: str) -> str:
    """A hub name is its own identity; a folder or a GGUF file is known by its content."""
    folder = TINY if name == "tiny" else Path(name).expanduser()
    if folder.is_file():
        return hash_files([folder])
    if not folder.is_dir():
        return name
    return hash_files(file for pattern in _FILES for file in sorted(folder.glob(pattern)))


def hash_files(paths: Iterable[Path]) -> str:
    """16 hex digits of the files' content, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():  # whoever loads it reports what is missing
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
