"""Which of llama.cpp's slots a request takes, when, and whether it may reuse what that holds."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from onepass.core.errors import OnepassError
from onepass.serve.activated import Activated
from onepass.serve.stop import Stop

Scales = tuple[float, ...]


@dataclass(frozen=True)
class Running:
    """A request that llama.cpp works on: its slot, its scales, the thread that waits for it."""

    slot: int
    scales: Scales
    thread: int


class Slots:
    """Slots 0 to `count` - 1, each for a combination of scales, and one more, `reading`.

    Activated compositions share the latter: up to where it acts, each reads what the others do.

    Requests with the same scales run side by side, each in its own slot, in one batch of llama.cpp.
    Others wait until these are done, in the order in which they came: llama.cpp computes one
    combination of scales at a time, and would always go on with that of the lowest slot. Activated
    ones run alone: in one batch llama.cpp would let an adapter act on the text of another request.
    """

    def __init__(self, count: int) -> None:
        self.reading = count
        self._last: dict[int, Scales | None] = dict.fromkeys(range(count))
        """By slot the scales it was used with, the least recently used slot first."""
        self._held: dict[int, tuple[list[int], int]] = {}
        self._running: list[Running] = []
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def taken(
        self, prompt: Sequence[int], scales: Scales, active: Activated | None, *, ahead: bool,
        aside: bool, stop: Stop,
    ) -> Iterator[tuple[int, bool]]:  # fmt: skip
        """A prompt's slot while the block lasts, and whether the slot's cache may be reused.

        active: the activated adapter that these scales run. ahead: its invocation may be missing,
        to read what is before it. aside: do not take `reading` for it.

        Raises:
            Stopped: `stop` was set before it was this request's turn.
        """
        start = active.start(prompt) if active else None
        if active and start is None and not ahead:
            raise OnepassError(
                f"the prompt does not have the invocation of adapter {active.name!r}, which would "
                f"change nothing: token ids {[*active.invocation]}"
            )
        running = self._begun(prompt, scales, active is not None, aside, stop)
        try:
            bare = len(prompt) if start is None else start
            reuse = self._reusable(running.slot, prompt, bare)
            yield running.slot, reuse or not active
        finally:
            with self._changed:
                self._running.remove(running)
                self._changed.notify_all()

    def holds(self, ids: Sequence[int]) -> bool:
        """Whether the slot for reading has all these tokens, read by the bare base."""
        last, bare = self._held.get(self.reading, ([], 0))
        return list(ids) == last[:bare][: len(ids)]

    def _begun(
        self, prompt: Sequence[int], scales: Scales, active: bool, aside: bool, stop: Stop
    ) -> Running:
        """Wait for this request's turn and a slot."""
        ticket, thread = object(), threading.get_ident()

        def ready() -> bool:
            # What a thread asks for while it is given an answer cannot wait for that answer.
            within = any(each.thread == thread for each in self._running)
            alike = all(each.scales == scales and not active for each in self._running)
            turn = within or (alike and self._queue[0] is ticket)
            return stop.asked or (turn and bool(self._free(thread)))

        with stop.then(self._notify), self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(ready)
                stop.check()
                if active and not aside:
                    slot = self.reading
                else:
                    slot = self._chosen(prompt, scales, self._free(thread))
                    del self._last[slot]
                    self._last[slot] = scales
                running = Running(slot, scales, thread)
                self._running.append(running)
                return running
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _free(self, thread: int) -> list[int]:
        busy = {each.slot for each in self._running if each.thread != thread}
        return [slot for slot in self._last if slot not in busy]

    def _chosen(self, prompt: Sequence[int], scales: Scales, free: Sequence[int]) -> int:
        """A free slot of these scales, that with most of the prompt; or the one longest idle."""
        own = [slot for slot in free if self._last.get(slot) == scales]
        return max(own, key=lambda slot: self._common(slot, prompt)) if own else free[0]

    def _common(self, slot: int, prompt: Sequence[int]) -> int:
        last, _ = self._held.get(slot, ([], 0))
        pairs = enumerate(zip(last, prompt, strict=False))
        return next((n for n, (a, b) in pairs if a != b), min(len(last), len(prompt)))

    def _reusable(self, slot: int, prompt: Sequence[int], start: int) -> bool:
        """Whether a slot may reuse its cache for a prompt, which it holds from now on.

        start: from where an activated adapter acts. llama.cpp compares tokens only: it would take
        what the last prompt's adapter has changed for bare if a text went on with its invocation.
        """
        last, bare = self._held.get(slot, ([], 0))
        ids = list(prompt)
        self._held[slot] = ids, start
        return bare >= min(start, len(last)) or ids[: bare + 1] != last[: bare + 1]
