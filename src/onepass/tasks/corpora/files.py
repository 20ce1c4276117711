"""Rows of plain files: JSON lines, CSV and tab-separated, with the line each stands on."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.files import read_jsonl, read_text

Record = tuple[str, dict[str, Any]]
"""Where it stands, and its fields."""

_LONGEST_CELL = 2**31 - 1  # of a CSV file; the csv module's own limit is 131,072 characters


def records(path: Path) -> Iterator[Record]:
    """The records of a file, by its ending: .csv, .tsv, else JSON lines.

    `OnepassError` for a file that cannot be read, is broken, or holds no record.
    """
    return _READERS.get(path.suffix.lower(), _jsonl)(path)


def _jsonl(path: Path) -> Iterator[Record]:
    for number, row in read_jsonl(path):
        yield f"{path}, line {number}", row


def _csv(path: Path) -> Iterator[Record]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise OnepassError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    finally:
        csv.field_size_limit(limit)
    if not rows:
        raise _empty(path)
    for number, row in rows:
        where = f"{path}, line {number}"
        # DictReader puts what has no heading under None.
        if None in row:
            raise OnepassError(f"{where}: more columns than the header has")
        yield where, row


def _tsv(path: Path) -> Iterator[Record]:
    """Tabs and line ends separate, nothing quotes. One line at a time: TED's file is large."""
    header: list[str] = []
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                cells = line.rstrip("\r\n").split("\t")
                if not header:
                    header = cells
                    continue
                if len(cells) > len(header):
                    raise OnepassError(f"{path}, line {number}: more columns than the header has")
                yield f"{path}, line {number}", dict(zip(header, cells, strict=False))
    except UnicodeDecodeError as error:
        raise OnepassError(f"{path}, after line {number}: not UTF-8; convert it") from error
    except OSError as error:
        raise OnepassError(f"cannot read {path}: {error.strerror or error}") from error
    if number < 2:
        raise _empty(path)


def _empty(path: Path) -> OnepassError:
    return OnepassError(f"{path} holds no examples; expected a header and one row per example")


_READERS: dict[str, Callable[[Path], Iterator[Record]]] = {".csv": _csv, ".tsv": _tsv}

PLAIN = (".jsonl", *_READERS)
"""The endings of the files that are read here."""
