"""Data as people have them in Python or in a file: examples to learn from, or texts alone.

Rows in memory are read as those of a file are, with the same ids and the same splits.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from onepass.core.errors import OnepassError
from onepass.core.files import read_text
from onepass.tasks.corpora import layouts
from onepass.tasks.corpora.files import ENDINGS, Record, records
from onepass.tasks.corpora.reader import Corpus, Rows, unique
from onepass.tasks.corpora.source import Source, in_memory, one_file, open_path
from onepass.tasks.corpus import OWN, example_rows, load_corpus
from onepass.tasks.example import Example
from onepass.tasks.task import Task

FORMATS = ("auto", "text", "lines", "jsonl")
"""How a file of inputs is read: as one text, a text per line, or rows; auto: rows by its ending."""


class Text(NamedTuple):
    """One input, and what to call it in remarks and in JSON lines."""

    id: str
    text: str


def corpus_of(data: Any, columns: Mapping[str, str] | None = None) -> Corpus:
    """The corpus that `data` are: a corpus, its name, a path, several names, or rows in memory.

    Rows are dicts, (input, target) pairs, Examples, a `datasets.Dataset`, or a pandas frame; a
    `datasets.DatasetDict` has its own splits, the others are split as one file is. `columns` as for
    `load_corpus`. Raises `OnepassError` for anything else.
    """
    if hasattr(data, "examples"):
        return data  # type: ignore[no-any-return]
    if isinstance(data, str | Path):
        return load_corpus(str(data), columns)
    if are_names(data):
        return load_corpus([str(name) for name in data], columns)
    if (
        isinstance(data, Mapping)
        and data
        and all(hasattr(x, "column_names") for x in data.values())
    ):
        tables = {str(label): lambda rows=rows: _records(rows) for label, rows in data.items()}
        return Rows("the data", OWN, Source("the data", lambda: tables), columns or {})
    return Rows("the data", OWN, in_memory("the data", list(_records(data))), columns or {})


def are_names(data: Any) -> bool:
    """Whether `data` are several names of corpora, or paths."""
    some = isinstance(data, list | tuple) and len(data) > 0
    return some and all(isinstance(name, str | Path) for name in data)


def examples_of(
    data: Any,
    task: Task,
    columns: Mapping[str, str] | None = None,
    split: str = "all",
    limit: int | None = None,
) -> list[Example]:
    """The examples of `task` in `data`, which is as for `corpus_of`; the first `limit` of them."""
    return corpus_of(data, columns).examples(task, split, limit)


def texts_of(
    data: Any, columns: Mapping[str, str] | None = None, format: str = "auto"
) -> list[Text]:
    """The inputs in `data`, which need no targets; rows are as for `corpus_of`.

    A str is a text itself, a list of str are texts. A `Path` is a file, read by `format` (one of
    `FORMATS`), or a folder of rows. Raises `OnepassError` where there is no text, and for a str
    that is the name of a file.
    """
    if isinstance(data, str):
        if os.path.isfile(data):
            raise OnepassError(f"{data!r} is a file, not a text; give Path({data!r}) to read it")
        return [Text(next(iter(texts_of([data]))).id, data)]
    if isinstance(data, Path) and not data.is_dir():
        if format == "auto":
            format = "jsonl" if data.suffix.lower() in ENDINGS else "text"
        if format != "jsonl":
            return _plain(data, format == "lines")
        source = one_file(data)
    elif isinstance(data, Path):
        source = open_path(str(data), data)
    else:
        source = in_memory("the data", list(_records(data)))
    rows = layouts.renamed(source.rows("all"), columns or {})
    found = (
        (where, Example(id_, text, ("",))) for where, id_, text, _ in layouts.read_inputs(rows)
    )
    texts = [Text(example.id, example.input) for example in unique(found)]
    if not texts:
        raise OnepassError(f"{source.place} is empty; give a text")
    return texts


def predictions_of(path: Path) -> dict[str, str]:
    """The "prediction" for each "id" in a file of rows; `OnepassError` names the row without."""
    found: dict[str, str] = {}
    for where, row in records(path):
        name, text = row.get("id"), row.get("prediction")
        if not isinstance(name, str | int):
            raise OnepassError(f'{where}: "id" is not a text; give one')
        if not isinstance(text, str):
            raise OnepassError(f'{where}: "prediction" is not a text; give one')
        if str(name) in found:
            raise OnepassError(f"{where}: a second prediction for {name!r}")
        found[str(name)] = text
    return found


def _plain(path: Path, by_line: bool) -> list[Text]:
    whole = read_text(path)
    if not whole.strip():
        raise OnepassError(f"{path} is empty; give a text")
    if not by_line:
        return [Text(path.name, whole)]
    lines = enumerate(whole.split("\n"), start=1)
    return [Text(f"line {number}", line) for number, line in lines if line.strip()]


def _records(data: Any) -> Iterator[Record]:
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # a pandas frame
        data = data.to_dict("records")
    if not isinstance(data, Iterable) or isinstance(data, Mapping | bytes):
        raise OnepassError(
            f"data of type {type(data).__name__}: give a path, or rows: dicts, (input, target) "
            "pairs, a datasets.Dataset or a pandas frame"
        )
    for number, item in enumerate(data, start=1):
        where = f"row {number} of the data"
        match item:
            case Example():
                yield where, next(example_rows([item]))
            case str():
                yield where, {"input": item}
            case Mapping():
                # numpy's arrays and numbers, which a frame may hold, become Python's
                yield (
                    where,
                    {
                        key: value.tolist() if hasattr(value, "tolist") else value
                        for key, value in item.items()
                    },
                )
            case (text, list() | tuple() as targets):
                yield where, {"input": text, "targets": list(targets)}
            case (text, target):
                yield where, {"input": text, "target": target}
            case _:
                raise OnepassError(
                    f"{where}: expected a dict or an (input, target) pair, found {item!r:.60}"
                )
