"""Which of llama.cpp's slots a request takes, and whether it may reuse what that holds."""

from collections.abc import Sequence

from onepass.core.errors import OnepassError
from onepass.serve.activated import Activated

Scales = tuple[float, ...]


class Slots:
    """Slots 0 to `count` - 1, each for a combination of scales, and one more, `reading`.

    Activated compositions share the latter: up to where it acts, each reads what the others do.
    """

    def __init__(self, count: int) -> None:
        self.reading = count
        self._count = count
        self._taken: dict[Scales, int] = {}
        self._held: dict[int, tuple[list[int], int]] = {}

    def place(
        self, prompt: Sequence[int], scales: Scales, active: Activated | None, ahead: bool,
        aside: bool,
    ) -> tuple[int, bool]:  # fmt: skip
        """A prompt's slot, and whether the slot's cache may be reused.

        active: the activated adapter that these scales run. ahead: its invocation may be missing,
        to read what is before it. aside: do not take `reading` for it.
        """
        start = active.start(prompt) if active else None
        if active and start is None and not ahead:
            raise OnepassError(
                f"the prompt does not have the invocation of adapter {active.name!r}, which would "
                f"change nothing: token ids {[*active.invocation]}"
            )
        slot = self._of(scales) if aside or not active else self.reading
        reuse = self._reusable(slot, prompt, len(prompt) if start is None else start)
        return slot, reuse or not active

    def holds(self, ids: Sequence[int]) -> bool:
        """Whether the slot for reading has all these tokens, read by the bare base."""
        last, bare = self._held.get(self.reading, ([], 0))
        return list(ids) == last[:bare][: len(ids)]

    def _reusable(self, slot: int, prompt: Sequence[int], start: int) -> bool:
        """Whether a slot may reuse its cache for a prompt, which it holds from now on.

        start: from where an activated adapter acts. llama.cpp compares tokens only: it would take
        what the last prompt's adapter has changed for bare if a text went on with its invocation.
        """
        last, bare = self._held.get(slot, ([], 0))
        ids = list(prompt)
        self._held[slot] = ids, start
        return bare >= min(start, len(last)) or ids[: bare + 1] != last[: bare + 1]

    def _of(self, scales: Scales) -> int:
        """The slot of these scales: their own, a free one, or the least recently used one."""
        slot = self._taken.pop(scales, None)
        if slot is None and len(self._taken) < self._count:
            slot = len(self._taken)
        elif slot is None:
            slot = self._taken.pop(next(iter(self._taken)))
        self._taken[scales] = slot
        return slot
