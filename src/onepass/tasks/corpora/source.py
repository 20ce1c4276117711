"""Where rows come from: a file, a folder, the hub, or memory; and their splits."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.core.files import read_text
from onepass.tasks.corpora import hub
from onepass.tasks.corpora.files import ENDINGS, Record, records
from onepass.tasks.corpora.row import Row, named

SPLITS = ("train", "validation", "test")

ALONE = "row"
"""What stands before the number in the name of a row that is in no split."""

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""Words in the names of files, with their splits."""

Tables = Mapping[str, Callable[[], Iterable[Record]]]
"""For each split, in the order of `SPLITS` and then any others, what reads its rows."""


@dataclass(frozen=True)
class Source:
    """Rows by split, found when they are asked for.

    `whole`: they are of one file or list, which is not split yet, so that there are rows for "all"
    only. If its name is a split's (test.jsonl), that names the rows, and no more.
    """

    place: str
    find: Callable[[], Tables]
    whole: bool = False

    def splits(self) -> list[str]:
        """The splits of `SPLITS` that there are."""
        return [split for split in self.find() if split in SPLITS]

    def rows(self, split: str) -> Iterator[Row]:
        """Yield the rows of a split, or of "all"; an `OnepassError` if there is no such split."""
        tables = self.find()
        chosen = [label for label in tables if split in (label, "all")]
        if not chosen:
            raise OnepassError(
                f"{self.place} has no split {split!r}; found {', '.join(tables)}; put {split!r} in "
                "the name of a file, or give one file alone, which is split automatically"
            )
        return chain.from_iterable(named(label, tables[label]()) for label in chosen)


def in_memory(place: str, rows: Iterable[Record]) -> Source:
    """The source that is a list of rows."""
    return Source(place, lambda: {ALONE: lambda: rows}, whole=True)


def one_file(path: Path, quoted: bool = True) -> Source:
    """The source that is a file; `quoted` as for `files.records`."""
    label = split_of(path) or ALONE
    return Source(str(path), lambda: {label: partial(records, path, quoted)}, whole=True)


def open_path(
    name: str, path: Path, quoted: bool = True, words: Mapping[str, str] = SPLIT_WORDS
) -> Source:
    """The source that is the file or folder `path`; `name` is what the user called it.

    `words`: which word of a file's name says which split.
    """
    check_there(name, path)
    if not path.is_dir():
        return one_file(path, quoted)
    return Source(str(path), partial(_tables, path, quoted, words))


def check_there(name: str, path: Path) -> None:
    """Raise `OnepassError` if there is nothing at `path`; `name` is what the user called it."""
    # Not path.exists(), which raises for some paths that cannot be (a name too long).
    if not os.path.exists(path):
        raise OnepassError(f"corpus {name!r}: there is no file or folder {path}")
    if not path.is_dir():
        return
    try:
        empty = not any(path.iterdir())
    except OSError as error:
        raise OnepassError(f"cannot read {path}: {error.strerror or error}") from error
    if empty:
        raise OnepassError(
            f"corpus {name!r}: the folder {path} is empty; put data files there, one per split"
        )


def open_hub(name: str, spelt: str, quoted: bool = True) -> Source:
    """The source that is the hub's data set `spelt`: OWNER/NAME or OWNER/NAME@REVISION."""
    repository, _, revision = spelt.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise OnepassError(f"corpus {name!r}: {spelt!r} is not OWNER/NAME or OWNER/NAME@REVISION")

    @cache
    def find() -> Tables:
        return _tables(hub.download(repository, revision or None), quoted, SPLIT_WORDS)

    return Source(repository, find)


def _tables(folder: Path, quoted: bool, words: Mapping[str, str]) -> Tables:
    """The files of a folder by the split that their names say; if none does, as on the hub."""
    files: dict[str, list[Path]] = {}
    if not _has_configs(folder / "README.md"):
        for file in named_files(folder, words):
            files.setdefault(split_of(file, words) or "", []).append(file)
    if not files:
        for label, found in hub.layout(folder).items():
            files.setdefault(SPLIT_WORDS.get(label, label), []).extend(found)
    order = [*SPLITS, *(label for label in files if label not in SPLITS)]
    for split, found in files.items():
        if len({file.suffix.lower() for file in found}) > 1:
            raise OnepassError(
                f"{folder} has the split {split!r} in two formats, as {found[0].name} and "
                f"{found[-1].name}; give a folder with one of them"
            )
    return {split: partial(chained, files[split], quoted) for split in order if split in files}


def chained(files: Iterable[Path], quoted: bool) -> Iterator[Record]:
    """Yield the rows of one file after another."""
    for file in files:
        yield from records(file, quoted)


def named_files(folder: Path, words: Mapping[str, str] = SPLIT_WORDS) -> list[Path]:
    """The data files of a folder whose names say a split.

    Where it has none itself, those of the folders in it, but for hidden ones and links.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files_here = (Path(parent, name) for name in names if not name.startswith("."))
        found += [f for f in files_here if f.suffix.lower() in ENDINGS and split_of(f, words)]
        if found and parent == str(folder):
            break
    return sorted(found)


def split_of(file: Path, words: Mapping[str, str] = SPLIT_WORDS) -> str | None:
    """The split that a file's name says."""
    found = re.split(r"[^a-z]+", file.name.lower())
    return next((words[word] for word in found if word in words), None)


def _has_configs(readme: Path) -> bool:
    """Whether a data set card says itself which file belongs to which split."""
    if not readme.is_file():
        return False
    card = re.match(r"---\n(.*?\n)---", read_text(readme), re.DOTALL)
    return bool(card and re.search(r"^configs:", card[1], re.MULTILINE))
