"""Rows of files, with the place of each: JSON lines, JSON, CSV, TSV and Parquet.

The same rows are read alike from each of them, so that their ids and splits are the same too.
"""

import csv
import io
from collections.abc import Callable, Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.files import read_json, read_jsonl, read_text
from onepass.core.optional import optional

Record = tuple[str, dict[str, Any]]
"""The place of a row, for messages, and its fields."""

_LONGEST_CELL = 2**31 - 1  # of a CSV file; the csv module's own limit is 131,072 characters


def records(path: Path, quoted: bool = True) -> Iterator[Record]:
    """Yield the rows of a file, by its ending; JSON lines if that is none of `ENDINGS`.

    `quoted=False`: quotes in a TSV file are text. `OnepassError` for a file that cannot be read, is
    broken, or has no rows.
    """
    ending = path.suffix.lower()
    read = _unquoted if ending == ".tsv" and not quoted else _READERS.get(ending, _jsonl)
    empty = True
    for record in read(path):
        empty = False
        yield record
    if empty:
        raise OnepassError(f"{path} holds no examples; expected one row per example")


def _jsonl(path: Path) -> Iterator[Record]:
    for number, row in read_jsonl(path):
        yield f"{path}, line {number}", row


def _json(path: Path) -> Iterator[Record]:
    """A list of objects; JSON lines are often in a file of this ending, too."""
    if not read_text(path).lstrip().startswith("["):
        yield from _jsonl(path)
        return
    for number, row in enumerate(read_json(path), start=1):
        if not isinstance(row, dict):
            raise OnepassError(f"{path}, row {number}: expected an object, found {row!r:.40}")
        yield f"{path}, row {number}", row


def _csv(path: Path, delimiter: str = ",") -> Iterator[Record]:
    lines = io.StringIO(read_text(path), newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        rows = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        kind = "CSV" if delimiter == "," else "TSV with quotes"
        raise OnepassError(f"{path}, line {reader.line_num}: not {kind} ({error})") from error
    finally:
        csv.field_size_limit(limit)
    yield from _table(path, iter(rows))


def _tsv(path: Path) -> Iterator[Record]:
    """Cells quoted as in CSV; quotes are text if only so every row has all its cells."""
    try:
        rows, error = list(_csv(path, "\t")), None
    except OnepassError as broken:
        rows, error = [], broken
    if error or not _is_full(rows):
        plain = list(_unquoted(path)) if _can_be_plain(path) else []
        if plain:
            rows, error = plain, None
    if error:
        raise error
    yield from rows


def _is_full(rows: list[Record]) -> bool:
    return all(None not in row.values() for _, row in rows)


def _can_be_plain(path: Path) -> bool:
    """Whether every line of a TSV file has as many cells as the first."""
    lines = (line for line in read_text(path).split("\n") if line)
    return len({line.count("\t") for line in lines}) == 1


def _unquoted(path: Path) -> Iterator[Record]:
    """Tabs and line ends separate, nothing quotes. One line at a time: TED's file is large."""
    lines = 0
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:

            def cells() -> Iterator[tuple[int, list[str]]]:
                nonlocal lines
                for line in file:
                    lines += 1
                    if line.strip("\r\n"):
                        yield lines, line.rstrip("\r\n").split("\t")

            yield from _table(path, cells())
    except UnicodeDecodeError as error:
        raise OnepassError(f"{path}, after line {lines}: not UTF-8; convert it") from error
    except OSError as error:
        raise OnepassError(f"cannot read {path}: {error.strerror or error}") from error


def _table(path: Path, rows: Iterator[tuple[int, list[str]]]) -> Iterator[Record]:
    """Rows of cells, each with its line, as fields by the header, which is the first."""
    _, header = next(rows, (0, []))
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise OnepassError(f"{path}: two columns are called {twice!r}; rename one")
    for number, cells in rows:
        if len(cells) > len(header):
            raise OnepassError(f"{path}, line {number}: more columns than the header has")
        yield f"{path}, line {number}", dict(zip_longest(header, cells))


def _parquet(path: Path) -> Iterator[Record]:
    parquet = optional("pyarrow.parquet", "data", f"reading {path}")
    try:
        with parquet.ParquetFile(path) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches(1024))
            for number, row in enumerate(chain.from_iterable(batches), start=1):
                yield f"{path}, row {number}", row
    except Exception as error:  # whatever pyarrow or the file system raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise OnepassError(
            f"cannot read {path}: {reason}; it may be corrupt, cut short, or a Git LFS pointer "
            "(then `git lfs pull`)"
        ) from error


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}

ENDINGS = tuple(_READERS)
"""The endings of the files that hold rows."""
