"""Labels on disk, found again by what they were made from; a kill loses none that was kept."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.prepare.labeller import Label

_SETUP = """
PRAGMA journal_mode=WAL;  -- written ahead, so that keeping a label does not wait for the disk
PRAGMA synchronous=NORMAL;
CREATE TABLE IF NOT EXISTS labels (key TEXT PRIMARY KEY, text TEXT, problem TEXT, date TEXT);
"""


class Store:
    """A SQLite file of labels by `Identity.key`. May be used from several threads in turn."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, check_same_thread=False)
            self._file.executescript(_SETUP)

    def find(self, key: str) -> Label | None:
        with self._explained():
            row = self._file.execute(
                "SELECT text, problem, date FROM labels WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else Label(row[0], row[1], date=row[2])

    def add(self, labels: Mapping[str, Label]) -> None:
        """Keep labels by their keys, all or none."""
        rows = [(key, each.text, each.problem, each.date) for key, each in labels.items()]
        with self._explained(), self._file:
            self._file.executemany("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?)", rows)

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise OnepassError(
                f"cannot use {self.path}, where labels are kept: {error}; is the disk full, or is "
                "another preparation at work there? If the file is damaged, delete it"
            ) from error


def today() -> str:
    """The date, UTC, as 2026-11-25."""
    return datetime.now(UTC).date().isoformat()
