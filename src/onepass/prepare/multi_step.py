"""Labels by our own pipeline: the task's adapter on the base, as multi-step inference runs it.

Main task and auxiliary tasks alike, so no labels are needed at all; a calibration that is trained
on them distils two passes into one.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from onepass.adapters.adapter import CONFIG, WEIGHTS, load_adapter
from onepass.adapters.composition import Composition, Pass, Weighted, suited
from onepass.core.errors import OnepassError
from onepass.model.assets import embedded_adapter
from onepass.model.chat import text_ids
from onepass.model.generate import run
from onepass.model.identity import hash_files
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
from onepass.tasks.task import Task


@labeller("multi-step")
class MultiStep:
    def __init__(self, options: Options) -> None:
        self.options = options

    @cached_property
    def base(self) -> Base:
        return load_base(self.options.model, self.options.device)

    def _folder(self, part: Task) -> Path:
        given = self.options.adapters.get(part.name)
        if given is None and self.options.model == "tiny":
            given = embedded_adapter(part.name)
        if given is None:
            raise OnepassError(
                f"multi-step has no adapter for {part.name}; give --adapters {part.name}=FOLDER"
            )
        if not (given / WEIGHTS).is_file():
            raise OnepassError(f"the adapter of {part.name}, {given}, has no {WEIGHTS}")
        return given

    def identity(self, part: Task) -> Identity:
        folder, name = self._folder(part), self.options.model
        settings = {
            "weights": weights_hash(name),
            "adapter": hash_files([folder / CONFIG, folder / WEIGHTS]),
            "max_new_tokens": self.options.max_new_tokens,
        }
        asked = suited(part, [load_adapter(folder)]).message("{text}")
        return Identity("multi-step", Path(name).name, asked, settings)

    def label(self, part: Task, texts: Sequence[str], keep: Keep) -> None:
        adapter = load_adapter(self._folder(part))
        task = suited(part, [adapter])
        step = Pass(task, (Weighted(adapter),))
        composition = Composition(self.base.shape, task, (step,), "multi-step")
        limit, size = self.options.max_new_tokens, self.options.batch_size
        for first in range(0, len(texts), size):
            batch = texts[first : first + size]
            done = run(self.base, composition, batch, limit, size)
            lengths = [len(ids) for ids in text_ids(self.base.tokenizer, done.texts)]
            labels = {}
            for text, label, notice, length in zip(
                batch, done.texts, done.notices, lengths, strict=True
            ):
                # A long conversation may lose its oldest turns; a text to be translated nothing.
                cut = length >= limit or (bool(notice) and part.role != "main")
                labels[text] = Label(problem=TOO_LONG) if cut else Label(label)
            keep(labels)
