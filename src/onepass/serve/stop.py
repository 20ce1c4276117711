"""Ending an answer before it is complete, from another thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """Raised to whoever waits for an answer that was stopped."""


class Stop:
    """A wish that an answer end; `set` it once, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acts: list[Callable[[], None]] = []
        self.asked = False

    def set(self) -> None:
        with self._lock:
            self.asked = True
            acts = [*self._acts]
        for act in acts:
            act()

    def check(self) -> None:
        """Raise `Stopped` if the answer is to end."""
        if self.asked:
            raise Stopped

    @contextmanager
    def then(self, act: Callable[[], None]) -> Iterator[None]:
        """Have `act` called if the wish comes while the block lasts; `Stopped` if it has come.

        It may be called while the block ends, or just after it.
        """
        with self._lock:
            self.check()
            self._acts.append(act)
        try:
            yield
        finally:
            with self._lock:
                self._acts.remove(act)
