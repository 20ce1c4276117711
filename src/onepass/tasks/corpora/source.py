"""Where rows come from: a file, a folder of plain files, a folder as the hub has it, the hub."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from onepass.core.errors import OnepassError
from onepass.core.files import read_text
from onepass.tasks.corpora import files, hub
from onepass.tasks.corpora.row import Row, named

SPLITS = ("train", "validation", "test")

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


class Source(Protocol):
    """Rows by split."""

    @property
    def whole(self) -> bool:
        """Whether it is one file, which has rows for the split "all" only."""
        ...

    def splits(self) -> list[str]:
        """The splits of `SPLITS` that there are."""
        ...

    def rows(self, split: str) -> Iterable[Row]:
        """The rows of a split, or of "all"; an `OnepassError` if there is no such split."""
        ...


@dataclass(frozen=True)
class OneFile:
    """One file alone. Where its name tells a split, that names its rows, and no more."""

    path: Path
    whole: bool = True

    def splits(self) -> list[str]:
        split = split_of(self.path)
        return [split] if split else []

    def rows(self, split: str) -> Iterable[Row]:
        label = split_of(self.path) or self.path.stem
        if self.path.suffix.lower() not in hub.BUILDERS:
            return named(label, files.records(self.path))
        (rows,) = hub.local_splits(self.path).values()
        return named(label, hub.records(str(self.path), label, rows))


@dataclass(frozen=True)
class Folder:
    """A folder of plain files, whose names tell their splits (train.jsonl, dialogsum.dev.jsonl)."""

    path: Path
    whole: bool = False

    def splits(self) -> list[str]:
        return [split for split in SPLITS if self._files(split)]

    def rows(self, split: str) -> Iterable[Row]:
        if split == "all":
            return chain.from_iterable(map(self.rows, self.splits()))
        found = self._files(split)
        if not found:
            raise OnepassError(
                f"{self.path} has no file for the split {split!r}; name one with {split!r} and "
                f"ending in {' or '.join(files.PLAIN)}, or give one file alone, which is split "
                "automatically"
            )
        return named(split, chain.from_iterable(map(files.records, found)))

    def _files(self, split: str) -> list[Path]:
        return [file for file in plain_files(self.path) if split_of(file) == split]


@dataclass(frozen=True)
class Repository:
    """A data set of the hub, or a folder laid out as one (data/train-00000-of-00001.parquet)."""

    place: str | Path
    revision: str | None = None
    whole: bool = False

    def splits(self) -> list[str]:
        return [split for split in SPLITS if split in map(_SPLIT_WORDS.get, self._load())]

    def rows(self, split: str) -> Iterator[Row]:
        found = self._load()
        chosen = [key for key in found if split in (_SPLIT_WORDS.get(key), "all")]
        if not chosen:
            raise OnepassError(
                f"{self.place} has no split {split!r}; found {', '.join(found)}; name another, or "
                "give one file alone, which is split automatically"
            )
        for key in chosen:
            label = _SPLIT_WORDS.get(key, key)
            yield from named(label, hub.records(str(self.place), key, found[key]))

    def _load(self) -> Mapping[str, Any]:
        if isinstance(self.place, Path):
            return hub.local_splits(self.place)
        return hub.hub_splits(self.place, self.revision)


def open_path(name: str, path: Path) -> Source:
    """The source that is the file or folder `path`; `name` is what the user called it."""
    # Not path.exists(), which raises for some paths that cannot be (a name too long).
    if not os.path.exists(path):
        raise OnepassError(f"corpus {name!r}: there is no file or folder {path}")
    if not path.is_dir():
        return OneFile(path)
    try:
        empty = not any(path.iterdir())
    except OSError as error:
        raise OnepassError(f"cannot read {path}: {error.strerror or error}") from error
    if empty:
        raise OnepassError(
            f"corpus {name!r}: the folder {path} is empty; put data files there, one per split"
        )
    if plain_files(path) and not _has_configs(path / "README.md"):
        return Folder(path)
    return Repository(path)


def open_hub(name: str, spelt: str) -> Source:
    """The source that is the hub's data set `spelt`: OWNER/NAME or OWNER/NAME@REVISION."""
    repository, _, revision = spelt.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise OnepassError(f"corpus {name!r}: {spelt!r} is not OWNER/NAME or OWNER/NAME@REVISION")
    return Repository(repository, revision or None)


def plain_files(folder: Path) -> list[Path]:
    """The plain files of a folder whose names tell a split.

    Where it has none itself, those of the folders in it, but for hidden ones and links.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files_here = (Path(parent, name) for name in names if not name.startswith("."))
        found += [f for f in files_here if f.suffix.lower() in files.PLAIN and split_of(f)]
        if found and parent == str(folder):
            break
    return sorted(found)


def split_of(file: Path) -> str | None:
    """The split that a file's name tells."""
    words = re.split(r"[^a-z]+", file.name.lower())
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


def _has_configs(readme: Path) -> bool:
    """Whether a data set card says itself which file belongs to which split."""
    if not readme.is_file():
        return False
    card = re.match(r"---\n(.*?\n)---", read_text(readme), re.DOTALL)
    return bool(card and re.search(r"^configs:", card[1], re.MULTILINE))
