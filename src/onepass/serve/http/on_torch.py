"""Compositions and adapters that have no device set, on PyTorch: one answer at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onepass.adapters.composition import Composition, Pass, Weighted, check_base
from onepass.core.errors import OnepassError
from onepass.export.gguf.device_set import file_name
from onepass.model.chat import conversation_ids, text_ids
from onepass.model.generate import continued, run
from onepass.model.load import Base
from onepass.serve.http.backend import BASE, Job, Model, Reply, room
from onepass.serve.stop import Stop
from onepass.serve.stream import OnText, stripped


class TorchBackend:
    """A base and the compositions that run on it, by the names of their models.

    most: the longest answer of the base, in tokens, if a request does not say.
    Raises:
        OnepassError: a composition is of another base.
    """

    at_once = 1
    failed = False

    def __init__(self, base: Base, compositions: Mapping[str, Composition], most: int) -> None:
        self._base = base
        self._compositions = compositions
        self._most = most
        self.models = {
            name: Model(name, each.task.instruction or each.task.name, len(each.passes))
            for name, each in compositions.items()
        }
        self.models[BASE] = Model(BASE, f"{base.name} alone", 1, chat=True)
        for each in compositions.values():
            check_base(each, base.shape)

    def close(self) -> None:
        """Nothing outlives the process."""

    def answer(self, job: Job, on_text: OnText, stop: Stop) -> Reply:
        if self.models[job.model].chat:
            return self._continued(job, on_text, stop)
        assert isinstance(job.content, str)
        if not job.content.strip():
            raise OnepassError("the text is empty; give a text")
        composition, text = self._compositions[job.model], job.content
        last = len(composition.passes) - 1
        read = written = 0
        notices = []
        for number, pass_ in enumerate(composition.passes):
            alone = replace(composition, passes=(pass_,))
            spoken = Spoken(self._base, stripped(on_text) if number == last else None, stop)
            done = run(self._base, alone, [text], job.max_tokens, watch=spoken)
            read, written = read + done.prompt_tokens, written + done.tokens
            notices += [each for each in done.notices if each]
            (text,) = done.texts
        spoken.finish()
        return Reply(text, read, 0, written, spoken.cut, "; ".join(notices))

    def _continued(self, job: Job, on_text: OnText, stop: Stop) -> Reply:
        """What the base alone says after a prompt."""
        tokenizer = self._base.tokenizer
        raw = isinstance(job.content, str)
        if isinstance(job.content, str):
            first = tokenizer("")["input_ids"][:1]  # what begins every text, if anything does
            ids = [*first, *text_ids(tokenizer, [job.content])[0]]
        else:
            ids = conversation_ids(tokenizer, job.content)
        longest = room(self._base.context, len(ids), job.max_tokens, self._most)
        spoken = Spoken(self._base, on_text if raw else stripped(on_text), stop)
        done = continued(self._base, ids, longest, spoken)
        text = spoken.text if raw else done.texts[0]
        spoken.finish()
        return Reply(text, done.prompt_tokens, 0, done.tokens, spoken.cut)


class Spoken:
    """The text of an answer as its tokens come; called with each. `cut`: it has not ended yet."""

    def __init__(self, base: Base, on_text: OnText | None, stop: Stop) -> None:
        self._base, self._on_text, self._stop = base, on_text, stop
        self._ids: list[int] = []
        self._given = 0
        self.cut = True

    @property
    def text(self) -> str:
        text = self._base.tokenizer.decode(
            self._ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def __call__(self, tokens: Sequence[int]) -> None:
        self._stop.check()
        (token,) = tokens
        self.cut = token not in self._base.stop_ids
        if not self.cut or self._on_text is None:
            return
        self._ids.append(token)
        text = self.text
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # of a character there is more to come
            self._on_text(text[self._given :])
            self._given = len(text)

    def finish(self) -> None:
        """Give what was held back of an answer that ends inside a character."""
        left = self.text[self._given :]
        if self._on_text and left:
            self._on_text(left)


def served(compositions: Mapping[str, Composition]) -> dict[str, Composition]:
    """The compositions, and each task adapter in them that is for one of their single tasks.

    Raises:
        OnepassError: a composition is called as the base is.
    """
    if BASE in compositions:
        raise OnepassError(
            f"a composition is called {BASE!r}, as the model without adapters is; rename its folder"
        )
    found = dict(compositions)
    for each in compositions.values():
        tasks = {part.name: part for part in each.task.parts}
        weighted = (one for pass_ in each.passes for one in pass_.adapters if not one.stored)
        for adapter in (one.adapter for one in weighted):
            task = tasks.get(adapter.task_name)
            if task is None or not each.task.is_compositional:
                continue
            name = file_name(adapter.name)  # as in a device set
            if name in compositions or name == BASE:
                name = f"adapter:{name}"
            alone = Composition(each.base, task, (Pass(task, (Weighted(adapter),)),), "adapter")
            found.setdefault(name, alone)
    return found
