"""What the project is for, offline and in minutes.

Two calibrations are trained side by side (one here, one in a second process, a thread each: on few
cores faster than two threads for each in turn); then every method answers the same conversations.
"""

import multiprocessing
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from onepass.adapters.adapter import load_adapter
from onepass.adapters.composition import (
    COMPOSITION_FILES,
    Cost,
    cost,
    load_composition,
    save_composition,
)
from onepass.adapters.storage import check_replaceable
from onepass.api.outputs import check_writable
from onepass.api.resolve import read_data
from onepass.core.errors import OnepassError
from onepass.core.files import write_text
from onepass.methods import METHODS, Setting
from onepass.model.assets import embedded_adapter
from onepass.model.generate import run
from onepass.model.load import load_base
from onepass.tasks.book import parse_task
from onepass.tasks.example import Example
from onepass.tasks.task import Task

TASK = "summarize+translate:es"
COMPARED = (
    "zero-shot", "main-adapter", "auxiliary-adapter", "linear", "multi-step", "lc", "lc++",
)  # fmt: skip


@dataclass(frozen=True)
class Ingredients:
    """All that a process needs to make compositions, cheap to send to it."""

    model: str
    adapters: Mapping[str, Path]
    examples: int
    validation: int
    options: Mapping[str, Any]

    def setting(self, training: bool = True, progress: bool = False) -> Setting:
        """What a method is given; without examples for one that does no `training`."""
        torch.set_num_threads(1)
        task = parse_task(TASK)
        return Setting(
            load_base(self.model, "cpu"),
            task,
            {part: load_adapter(path) for part, path in self.adapters.items()},
            read_data("smalltown", task, "train", self.examples) if training else (),
            read_data("smalltown", task, "validation", self.validation) if training else (),
            self.options if training else {},
            progress=progress,
        )


def calibrate(ingredients: Ingredients, method: str, folder: Path, progress: bool = False) -> None:
    """Train the method's composition and save it in 16 bits, as a device would hold it."""
    composition = METHODS.get(method).build(ingredients.setting(progress=progress))
    save_composition(composition, folder, torch.float16)


@contextmanager
def beside(ingredients: Ingredients, method: str, folder: Path) -> Iterator[None]:
    """Calibrate in a second process during the block; leaving the block waits for it."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    # A daemon ends with this process, so that Ctrl-C leaves nothing running.
    process = spawn.Process(target=_work, args=(there, ingredients, method, folder), daemon=True)
    process.start()
    there.close()
    try:
        yield
    except BaseException:
        process.terminate()
        raise
    try:
        complaint = here.recv()
    except EOFError:
        complaint = f"the process that calibrates {method} died; is there enough memory?"
    process.join()
    if complaint:
        raise OnepassError(complaint)


def _work(parent: Connection, ingredients: Ingredients, method: str, folder: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears of it too, and ends this
    try:
        calibrate(ingredients, method, folder)
        parent.send("")
    except OnepassError as error:
        parent.send(str(error))


def ingredients(examples: int) -> Ingredients:
    """The embedded base and adapters, and a short training."""
    return Ingredients(
        model="tiny",
        adapters={p.name: embedded_adapter(p.name) for p in parse_task(TASK).parts},
        examples=examples,
        validation=100,
        options={"max_steps": 300, "batch_size": 16, "eval_every": 100, "patience": None},
    )


@dataclass(frozen=True)
class Comparison:
    """By method, its output for each of the test `examples`, and its cost."""

    task: Task
    examples: list[Example]
    outputs: Mapping[str, list[str]]
    costs: Mapping[str, Cost]
    conversation: Path
    """A file with one of the conversations, to go on with."""


def compare(given: Ingredients, out: Path, test: int, max_new_tokens: int = 128) -> Comparison:
    """Calibrate in two ways, and run every method on `test` conversations."""
    for method in ("lc", "lc++"):
        check_writable(out / method)
        check_replaceable(out / method, COMPOSITION_FILES)
    for path in given.adapters.values():
        load_adapter(path)  # what is wrong with one should not first show in a second process
    with beside(given, "lc", out / "lc"):
        calibrate(given, "lc++", out / "lc++", progress=True)
    setting = given.setting(training=False)
    compositions = {
        method: load_composition(out / method)
        if METHODS.get(method).learns
        else METHODS.get(method).build(setting)
        for method in COMPARED
    }
    tests = read_data("smalltown", setting.task, "test", test)
    texts = [example.input for example in tests]
    outputs = {
        method: run(setting.base, composition, texts, max_new_tokens).texts
        for method, composition in compositions.items()
    }
    costs = {method: cost(composition) for method, composition in compositions.items()}
    write_text(out / "conversation.txt", tests[0].input + "\n")
    return Comparison(setting.task, tests, outputs, costs, out / "conversation.txt")
