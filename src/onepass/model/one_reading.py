"""Texts that are read once and asked of often: `base.read(texts).answer(composition)`."""

from collections.abc import Sequence
from dataclasses import replace

from onepass.adapters.composition import Composition
from onepass.core.errors import OnepassError
from onepass.model.activation import activation_of
from onepass.model.chat import prompt_ids
from onepass.model.generate import Generated, Progress, run
from onepass.model.load import Base
from onepass.model.tokens import fit_prompts
from onepass.tasks.prompt import Shots, build_prompt
from onepass.tasks.task import ACTIVATED, BARE, Task

ROOM = 512
"""Tokens that a reading leaves for instruction and answer, of a base whose context allows it."""

_AT_ONCE = 64  # texts; what is kept of all of them may be more than there is room for


class Reading:
    """Texts as a base has read them, for every activated composition to answer from.

    Only the first pass of a composition is about the texts themselves; the others read what it
    gave. A text too long loses its oldest lines when it is read, alike for all compositions;
    `notices` says so.

    Args:
        system: the system message of the tasks that will be asked, if they have one.
        room: tokens to leave for instruction and answer; default `ROOM`, at most half the context.
    """

    def __init__(
        self, base: Base, texts: Sequence[str], system: str = "", room: int | None = None
    ) -> None:
        if not all(isinstance(text, str) for text in texts):
            raise OnepassError(f"texts to read are strings, found {texts!r:.60}")
        if room is not None and not 1 <= room < base.context:
            raise OnepassError(
                f"room is {room}; expected 1 to {base.context - 1} tokens, less than the context"
            )
        self.base = base
        self.room = min(ROOM, base.context // 2) if room is None else room
        task = Task("reading", "Answer.", prompt=ACTIVATED, activate="[", system=system)
        fitted = fit_prompts(base, replace(task, prompt=BARE, activate=""), texts, self.room)
        self.notices = [each.notice for each in fitted]
        self.texts = [each.prompt for each in fitted]
        self._begin = self._beginnings(task)
        for first in range(0, len(texts), _AT_ONCE):
            base.readings.read(self._begin[first : first + _AT_ONCE])

    def __repr__(self) -> str:
        tokens = sum(map(len, self._begin))
        return f"<Reading of {len(self.texts)} texts, {tokens:,} tokens, by {self.base.name}>"

    def answer(
        self,
        composition: Composition,
        max_new_tokens: int | None = None,
        batch_size: int = 64,
        progress: Progress | None = None,
    ) -> Generated:
        """Do the composition's task to the texts; as `generate.run`, of activated compositions.

        Raises:
            OnepassError: the composition is an ordinary one, or of another base; its prompt begins
                otherwise than this reading; or an answer needs more room than was left.
        """
        if not isinstance(composition, Composition):
            raise OnepassError(
                f"a reading answers compositions, and {composition!r:.60} is a "
                f"{type(composition).__name__}; load or make a composition first"
            )
        first = composition.passes[0]
        if not first.task.activate:
            raise OnepassError(
                f"the composition for {composition.task} acts on every token, so it reads each "
                "text itself: use generate, or train its adapters with activated=True"
            )
        if self._beginnings(first.task, first.shots) != self._begin:
            raise OnepassError(
                f"the prompt of {first.task} begins otherwise than this reading does: it has the "
                f"prompt {first.task.prompt!r:.60}, {len(first.shots)} solved examples and the "
                f"system message {first.task.system!r:.40}; read with that system message, or use "
                "generate"
            )
        tail = len(activation_of(self.base.tokenizer, first.task).tail)
        needed = tail + first.task.longest(max_new_tokens)
        if needed > self.room and max(map(len, self._begin)) + needed > self.base.context:
            raise OnepassError(
                f"{first.task} may take {needed} tokens for instruction and answer, and this "
                f"reading left {self.room}; read with room={needed}"
            )
        return run(self.base, composition, self.texts, max_new_tokens, batch_size, progress)

    def _beginnings(self, task: Task, shots: Shots = ()) -> list[list[int]]:
        """The ids of each text up to where adapters of the task act."""
        activation = activation_of(self.base.tokenizer, task)
        messages = [build_prompt(task, text, shots) for text in self.texts]
        rows = prompt_ids(self.base.tokenizer, messages, task.system)
        return [row[: activation.start(row)] for row in rows]
