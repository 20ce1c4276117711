"""Translations and tones by an instruction-tuned model, in a folder or under a hub name."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.model.chat import prompt_ids, text_ids
from onepass.model.generate import generate
from onepass.model.load import Base, load_base
from onepass.prepare.labeller import (
    TOO_LONG,
    Identity,
    Keep,
    Label,
    Options,
    labeller,
    weights_hash,
)
from onepass.prepare.prompts import clean, fill, prompt_template
from onepass.tasks.task import Task


@labeller("instruct")
class Instruct:
    def __init__(self, options: Options) -> None:
        if not options.instruct:
            raise OnepassError("instruct needs a model: give --instruct-model FOLDER or hub name")
        self.options = options

    @cached_property
    def base(self) -> Base:
        return load_base(self.options.instruct, self.options.device)

    def identity(self, part: Task) -> Identity:
        name, limit = self.options.instruct, self.options.max_new_tokens
        settings = {"weights": weights_hash(name), "max_new_tokens": limit}
        return Identity("instruct", Path(name).name, prompt_template(part), settings)

    def label(self, part: Task, texts: Sequence[str], keep: Keep) -> None:
        size = self.options.batch_size
        for first in range(0, len(texts), size):
            keep(self._batch(prompt_template(part), texts[first : first + size]))

    def _batch(self, template: str, texts: Sequence[str]) -> dict[str, Label]:
        limit = self.options.max_new_tokens
        prompts = [fill(template, text) for text in texts]
        lengths = [len(ids) for ids in prompt_ids(self.base.tokenizer, prompts)]
        fits = [length + limit <= self.base.context for length in lengths]
        asked = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
        answers = iter(generate(self.base, asked, limit).texts if asked else [])
        labels = {}
        for text, fit in zip(texts, fits, strict=True):
            answer = next(answers) if fit else None
            labels[text] = whole(self.base, answer, limit, text)
        return labels


def whole(base: Base, answer: str | None, limit: int, source: str) -> Label:
    """The label in an answer; none in one that was cut at the `limit`, or never given."""
    if answer is None or len(text_ids(base.tokenizer, [answer])[0]) >= limit:
        return Label(problem=TOO_LONG)
    return Label(clean(answer, source))
