"""Progress of long work on standard error: a bar on a terminal, else a line now and then.

Lines are for logs, batch systems and notebooks. They come after 1, 10 and 30 seconds, then once a
minute, and at the end; work of less than a second prints nothing.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Update = Callable[[int, str], None]
"""Takes how much is done, and a remark such as the loss."""

Listener = Callable[[int, int, str], None]
"""Takes how much is done, of how much, and a remark."""

clock = time.monotonic
_FIRST_LINES, _BETWEEN = (1.0, 10.0, 30.0), 60.0  # seconds
_TELLING = 1.0  # second, at least, between two calls of a listener
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def telling(listener: Listener) -> Iterator[None]:
    """Tell the progress of the block to `listener`, and show it nowhere: for background work."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def progress_bar(
    title: str, total: int, show: bool = True, start: int = 0, console: Console | None = None
) -> Iterator[Update]:
    """Yield `update(done, note)`, which shows that `done` of `total` is done.

    start: what was done before, which says nothing about the speed. console: if other output is
    to appear above the bar, print it there.
    """
    console = console or Console(stderr=True)
    listener = _listener.get()
    if listener is not None:
        yield _seldom(listener, total)
    elif not show:
        yield lambda done, note: None
    elif _is_live(console):
        columns = (
            TextColumn(title, markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        # Twice a second: the thread that draws should cost nothing.
        bar = Progress(*columns, console=console, transient=True, refresh_per_second=2)
        with bar as progress:
            task = progress.add_task(title, total=total, completed=start, note="")
            yield lambda done, note: progress.update(task, completed=done, note=note)
    else:
        lines = _Lines(title, total, start)
        yield lines.update
        lines.end()


def _seldom(listener: Listener, total: int) -> Update:
    told = -math.inf

    def update(done: int, note: str) -> None:
        nonlocal told
        if clock() - told >= _TELLING:
            told = clock()
            listener(done, total, note)

    return update


def _is_live(console: Console) -> bool:
    """Whether a bar can be redrawn: not in a file, a pipe, a notebook or a dumb terminal."""
    # Rich takes FORCE_COLOR, which is set for logs too, for a terminal.
    return console.is_interactive and not console.is_jupyter and console.file.isatty()


class _Lines:
    """Progress as lines of text on standard error."""

    def __init__(self, title: str, total: int, start: int) -> None:
        self._title, self._total, self._start = title, total, start
        self._began = clock()
        self._due = _FIRST_LINES[0]
        self._done, self._note = start, ""
        self._printed: int | None = None

    def update(self, done: int, note: str) -> None:
        """Print a line if one is due."""
        self._done, self._note = done, note
        elapsed = clock() - self._began
        if elapsed >= self._due:
            self._print(elapsed, done < self._total)
            later = [due for due in _FIRST_LINES if due > elapsed]
            self._due = later[0] if later else elapsed - elapsed % _BETWEEN + _BETWEEN

    def end(self) -> None:
        """Print the last line, unless the work was too short for any."""
        if self._printed not in (None, self._done):
            self._print(clock() - self._began, estimate=False)

    def _print(self, elapsed: float, estimate: bool) -> None:
        parts = [f"{self._done:,}/{self._total:,}", f"{_duration(elapsed)} elapsed"]
        moved = self._done - self._start
        if estimate and moved > 0:
            parts.append(f"{_duration(elapsed / moved * (self._total - self._done))} left")
        if self._note:
            parts.insert(1, self._note)
        self._printed = self._done
        print(f"{self._title}: {', '.join(parts)}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """As "0:01:30"."""
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of `total` things; yields a function to call as more are done."""
    done = 0
    with progress_bar(title, total) as update:

        def more(count: int) -> None:
            nonlocal done
            done += count
            update(done, "")

        yield more
