"""Sentences and their translations from English: a column per language, or a file per language.

- tatoeba: everyday sentences; train.tsv and test.tsv with "en" and a column per language, and pairs
  of longer ones in long_XX.tsv, which belong to train;
- ntrex: NTREX-128 (Federmann et al. 2022), news; XX.jsonl of "input" and "target", split here;
- pud: Parallel Universal Dependencies, news and Wikipedia; to be evaluated on, so all is test.

A row without a text in the task's language is left out: it has no such translation.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.tasks.corpora.files import ENDINGS, Record, records
from onepass.tasks.corpora.reader import Reader
from onepass.tasks.corpora.row import Row
from onepass.tasks.corpora.source import (
    ALONE,
    SPLIT_WORDS,
    Source,
    chained,
    check_there,
    open_path,
)
from onepass.tasks.example import Example
from onepass.tasks.task import Task

LANGUAGES = ("es", "fr", "de")
LAYOUT = '"en" and a column per language ("es", "fr", ...)'


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    language = task.name.partition(":")[2]
    for row in rows:
        text = row.text("en", LAYOUT)
        if len(row.fields.keys() - {"id", "en"}) == 0:
            raise row.wrong_layout(language, LAYOUT)
        if language in row.given:
            yield row.where, Example(row.id, text, (row.text(language, LAYOUT),))


def _open_tatoeba(name: str, path: Path) -> Source:
    return open_path(name, path, quoted=False, words={**SPLIT_WORDS, "long": "train"})


def _open_ntrex(name: str, path: Path) -> Source:
    """The file of a language, or all those in a folder; one sentence has one split in all."""
    files = _files(name, path)
    for file in files:
        if file.stem not in LANGUAGES:
            raise OnepassError(
                f"corpus {name!r}: {file} is of no language that has a task; name it by one: "
                + ", ".join(f"{language}{file.suffix}" for language in LANGUAGES)
            )

    def rows() -> Iterator[Record]:
        for file in files:
            for number, (where, row) in enumerate(records(file), start=1):
                texts = {"en": row.get("input"), file.stem: row.get("target")}
                yield where, {"id": f"{file.stem}-{number}", **texts}

    return Source(str(path), lambda: {ALONE: rows}, whole=True)


def _open_pud(name: str, path: Path) -> Source:
    files = _files(name, path)
    return Source(str(path), lambda: {"test": lambda: chained(files, quoted=False)})


def _files(name: str, path: Path) -> list[Path]:
    """The data files in a folder, or the file."""
    check_there(name, path)
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
    if not found:
        raise OnepassError(f"corpus {name!r}: {path} has no {', '.join(ENDINGS)} files")
    return found


def _reader(open_: Callable[[str, Path], Source]) -> Reader:
    tasks = tuple(f"translate:{language}" for language in LANGUAGES)
    return Reader(read, tasks, shuffled=True, quoted=False, apart=True, open=open_)


TATOEBA, NTREX, PUD = map(_reader, (_open_tatoeba, _open_ntrex, _open_pud))
