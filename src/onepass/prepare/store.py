"""Labels on disk, found again by what they were made from; a kill loses none that was kept."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.prepare.labeller import Label

_TABLE = (
    "CREATE TABLE IF NOT EXISTS labels (key TEXT PRIMARY KEY, text TEXT, problem TEXT, date TEXT)"
)


class Store:
    """A SQLite file of labels by `Identity.key`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Answers of an endpoint may be kept from its own thread, one at a time.
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            # Written ahead, so that to keep a label costs no wait for the disk.
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=NORMAL")
            self._file.execute(_TABLE)

    def find(self, key: str) -> Label | None:
        with self._told():
            row = self._file.execute(
                "SELECT text, problem, date FROM labels WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else Label(row[0], row[1], date=row[2])

    def add(self, labels: Mapping[str, Label]) -> None:
        """Keep labels by their keys, all or none."""
        rows = [(key, each.text, each.problem, each.date) for key, each in labels.items()]
        with self._told():
            self._file.execute("BEGIN IMMEDIATE")
            try:
                self._file.executemany("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?)", rows)
            except BaseException:
                self._file.execute("ROLLBACK")
                raise
            self._file.execute("COMMIT")

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise OnepassError(
                f"cannot use {self.path}, where labels are kept: {error}; is the disk full, or is "
                "another preparation at work there? If the file is damaged, delete it"
            ) from error


@contextmanager
def opened(path: Path) -> Iterator[Store]:
    store = Store(path)
    try:
        yield store
    finally:
        store.close()


def today() -> str:
    """The date, UTC, as 2026-11-25."""
    return datetime.now(UTC).date().isoformat()
