"""A device set's models on llama.cpp, switched per request by the scales of its adapters."""

import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError
from onepass.export.gguf.file import read_gguf
from onepass.export.manifest import PassEntry, base_path, read_set
from onepass.serve.engine import Engine
from onepass.serve.http.backend import BASE, Job, Messages, Model, Reply, room
from onepass.serve.modes import plan
from onepass.serve.stop import Stop
from onepass.serve.stream import OnText, stripped
from onepass.tasks.task import Task

MODES_SERVED = ("multi-step", "zero-shot")
"""Of a composition, served as NAME:MODE; "main" is the first adapter, a model of its own."""


class LlamaBackend:
    """An engine with the set in a folder, and what it serves.

    Args:
        at_once: answers with one model that are computed side by side; each costs a context.
        most: the longest answer of the base, in tokens, if a request does not say.
        fused: whether each composition becomes one adapter, which is faster and takes more memory.
        options: those of `Engine`.
    """

    def __init__(
        self, folder: Path | str, at_once: int, most: int, fused: bool, **options: Any
    ) -> None:
        manifest = read_set(folder, check=False, base=options.get("base"))
        names = [entry.name for entry in manifest.compositions]
        whole = [] if manifest.base.merged or not fused else names
        self.at_once = at_once
        self._most = most
        file = base_path(Path(folder), manifest.base, options.get("base"))
        self._template = read_gguf(file).get_field("tokenizer.chat_template") is not None
        self._engine = Engine(folder, slots=at_once, fused=whole, **options)
        try:
            self._served = served(self._engine)
        except OnepassError:
            self._engine.close()
            raise
        self.models = {name: model for name, (model, _) in self._served.items()}

    @property
    def pid(self) -> int:
        return self._engine.pid

    @property
    def failed(self) -> bool:
        return self._engine.closed

    def peak_memory(self) -> int | None:
        return self._engine.peak_memory()

    def close(self) -> None:
        self._engine.close()

    def answer(self, job: Job, on_text: OnText, stop: Stop) -> Reply:
        model, passes = self._served[job.model]
        if model.chat:
            return self._continued(job, on_text, stop)
        assert isinstance(job.content, str)
        done = self._engine.run_passes(passes, job.content, job.max_tokens, on_text, stop)
        return Reply(
            done.text, done.prompt_tokens, done.cached_tokens, done.tokens, done.cut, done.notice
        )

    def _continued(self, job: Job, on_text: OnText, stop: Stop) -> Reply:
        """What the base alone says after a prompt."""
        raw = isinstance(job.content, str)
        if isinstance(job.content, str):
            ids = self._engine.tokenize(job.content, first=True)
        else:
            ids = self._prompt(job.content)
        longest = room(self._engine.context, len(ids), job.max_tokens, self._most)
        take = on_text if raw else stripped(on_text)
        done = self._engine.complete(ids, {}, longest, on_text=take, stop=stop)
        return Reply(
            done.text if raw else done.text.strip(),
            done.prompt_tokens,
            done.cached_tokens,
            len(done.ids),
            done.cut,
        )

    def _prompt(self, messages: Messages) -> list[int]:
        """The ids of a conversation up to where the answer begins."""
        manifest = self._engine.manifest
        if [each["role"] for each in messages] == ["user"]:
            return self._engine.prompt_ids(messages[0]["content"])
        if not self._template:
            ids = [*manifest.prompt.before]
            for each in messages:
                own = each["role"] == "assistant"
                ids += self._engine.tokenize(each["content"] + ("" if own else "\n\n"))
                ids += manifest.prompt.stop[:1] if own else []
            return ids
        hidden = Hidden(manifest.prompt.control)
        safe = [{**each, "content": hidden.hide(each["content"])} for each in messages]
        ids = []
        for number, (piece, spelt) in enumerate(hidden.pieces(self._engine.templated(safe))):
            ids += self._engine.tokenize(piece, first=number == 0, control=not spelt)
        return ids


class Hidden:
    """Control tokens that the text of messages spells, kept out of the way of a chat template."""

    def __init__(self, control: Sequence[str]) -> None:
        longest_first = sorted(control, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._mark = secrets.token_hex(8)  # that no text has
        self._spelt: list[str] = []

    def hide(self, text: str) -> str:
        def mark(found: re.Match[str]) -> str:
            self._spelt.append(found[0])
            return f"({self._mark}:{len(self._spelt) - 1})"

        return self._control.sub(mark, text)

    def pieces(self, text: str) -> list[tuple[str, bool]]:
        """The text in pieces, each with whether it was hidden."""
        split = re.split(rf"\({self._mark}:(\d+)\)", text)
        pieces = [
            (self._spelt[int(piece)], True) if number % 2 else (piece, False)
            for number, piece in enumerate(split)
        ]
        return [each for each in pieces if each[0]]


def served(engine: Engine) -> dict[str, tuple[Model, list[PassEntry]]]:
    """The models of a set with what is run for each: none for the base, which takes messages.

    Raises:
        OnepassError: a composition is called as the base is.
    """
    manifest = engine.manifest
    entries = manifest.compositions
    found: dict[str, tuple[Model, list[PassEntry]]] = {}

    def add(name: str, task: Task, passes: list[PassEntry]) -> None:
        found[name] = Model(name, task.instruction or task.name, len(passes)), passes

    for entry in entries:
        add(entry.name, entry.task, engine.passes(entry.name))
    if BASE in found:
        raise OnepassError(
            f"a composition of the set is called {BASE!r}, as the model without adapters is; "
            "rename its folder and write the set again"
        )
    if manifest.base.merged:
        return found
    found[BASE] = Model(BASE, f"{manifest.base.name} alone", 1, chat=True), []
    for entry in entries:
        for part in entry.task.parts:
            if adapter := entry.parts.get(part.name):
                taken = adapter == BASE or any(each.name == adapter for each in entries)
                name = f"adapter:{adapter}" if taken else adapter
                add(name, part, [engine.adapter_pass(part, adapter)])
    for entry in entries:
        for mode in MODES_SERVED if entry.parts else MODES_SERVED[1:]:
            if plan(manifest, entry.name, mode) != entry.passes:
                add(f"{entry.name}:{mode}", entry.task, engine.passes(entry.name, mode))
    return found
