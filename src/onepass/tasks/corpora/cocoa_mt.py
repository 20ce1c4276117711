"""CoCoA-MT (Nadejde et al. 2022, arXiv 2205.04022): translation and register at once.

Spoken and written English, each sentence with a formal and an informal translation. A folder has
upstream's files: for each split, domain and language one of the English, one of each register, and
those again with the phrases that carry the register marked, "[F]Haben Sie[/F]". These phrases are
an example's `meta["register"]`, by register, which is what the metric `formality` needs.

Rows whose two translations are the same sentence teach no register, and are left out of train.
"""

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.core.files import read_text
from onepass.tasks.corpora.files import Record
from onepass.tasks.corpora.reader import Reader
from onepass.tasks.corpora.row import Row
from onepass.tasks.corpora.source import SPLIT_WORDS, SPLITS, Source, check_there
from onepass.tasks.example import Example
from onepass.tasks.task import Task

LAYOUT = "files formality-control.SPLIT.DOMAIN.en-XX of English, with .formal, .informal and so on"
REGISTERS = ("formal", "informal")

_ENGLISH = re.compile(r"formality-control\.(train|dev|test)\.(\w+)\.en-([a-z]{2})(\.en)?")
_TASK = re.compile(r"translate:(\w+)\+tone:(\w+)")
_MARKED = re.compile(r"\[F\](.*?)\[/F\]")


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    asked = _TASK.fullmatch(task.name)
    assert asked  # a reader is only given its own tasks
    for row in rows:
        texts = {register: row.text(register, LAYOUT) for register in REGISTERS}
        same = texts["formal"] == texts["informal"]
        if row.fields["language"] != asked[1] or (same and row.fields["split"] == "train"):
            continue
        register = {key: _MARKED.findall(str(row.fields[f"{key}.annotated"])) for key in REGISTERS}
        meta = {"domain": row.fields["domain"], "register": register}
        yield row.where, Example(row.id, row.text("en", LAYOUT), (texts[asked[2]],), meta)


def _open(name: str, path: Path) -> Source:
    """The source of upstream's files, in a folder or in those in it."""
    check_there(name, path)
    found: dict[str, list[tuple[Path, tuple[str, ...]]]] = {}
    for file in sorted(path.rglob("formality-control.*")):
        if said := _ENGLISH.fullmatch(file.name):
            found.setdefault(SPLIT_WORDS[said[1]], []).append((file, said.groups()))
    if not found:
        raise OnepassError(f"corpus {name!r}: {path} has no {LAYOUT}; give upstream's folder")
    tables = {split: partial(_records, found[split]) for split in SPLITS if split in found}
    return Source(str(path), lambda: tables)


def _records(files: Iterable[tuple[Path, tuple[str, ...]]]) -> Iterator[Record]:
    """Yield the lines of files of English, each with its translations."""
    for file, (split, domain, language, _) in files:
        english = _lines(file)
        columns = {"en": english}
        for ending in ("formal", "informal", "formal.annotated", "informal.annotated"):
            other = _translation(file, ending, language)
            columns[ending] = _lines(other)
            if len(columns[ending]) != len(english):
                raise OnepassError(
                    f"{other} has {len(columns[ending])} lines, but {file.name} has {len(english)}"
                )
        for number, texts in enumerate(zip(*columns.values(), strict=True), start=1):
            known = {"id": f"{split}-{domain}-{number}", "language": language, "domain": domain}
            yield (
                f"{file}, line {number}",
                {**known, "split": split, **dict(zip(columns, texts, strict=True))},
            )


def _translation(english: Path, ending: str, language: str) -> Path:
    """The file of translations that belongs to one of English: "X.formal", or "X.formal.es"."""
    bare = english.name.removesuffix(".en")
    names = [f"{bare}.{ending}", f"{bare}.{ending}.{language}"]
    there = [english.with_name(name) for name in names if english.with_name(name).is_file()]
    if not there:
        raise OnepassError(f"{english} has no translations beside it; put {' or '.join(names)}")
    return there[0]


def _lines(path: Path) -> list[str]:
    return read_text(path).removesuffix("\n").split("\n")


_TASKS = tuple(f"translate:{x}+tone:{tone}" for x in ("es", "fr", "de") for tone in REGISTERS)
COCOA_MT = Reader(read, _TASKS, shuffled=True, apart=True, open=_open)
