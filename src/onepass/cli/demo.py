"""`onepass demo`: what the project is for, offline and in minutes.

Two calibrations are trained side by side (one here, one in a second process, a thread each: on few
cores faster than two threads for each in turn); then every method answers the same conversations.
"""

import multiprocessing
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onepass.cli.outputs import check_writable
from onepass.cli.show import note
from onepass.core.errors import OnepassError
from onepass.core.files import write_text
from onepass.model.assets import embedded_adapter
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import load_corpus

if TYPE_CHECKING:
    from onepass.methods import Setting

TASK = "summarize+translate:es"
COMPARED = (
    "zero-shot", "main-adapter", "auxiliary-adapter", "linear", "multi-step", "lc", "lc++",
)  # fmt: skip
SHOWN = 3


@dataclass(frozen=True)
class Ingredients:
    """All that a process needs to make compositions, cheap to send to it."""

    model: str
    adapters: Mapping[str, Path]
    examples: int
    validation: int
    options: Mapping[str, Any]

    def setting(self, training: bool = True, progress: bool = False) -> "Setting":
        """What a method is given; without examples for one that does no `training`."""
        import torch

        from onepass.adapters.adapter import load_adapter
        from onepass.methods import Setting
        from onepass.model.load import load_base

        torch.set_num_threads(1)
        task, corpus = parse_task(TASK), load_corpus("smalltown")
        return Setting(
            load_base(self.model, "cpu"),
            task,
            {part: load_adapter(path) for part, path in self.adapters.items()},
            corpus.examples(task, "train", self.examples) if training else (),
            corpus.examples(task, "validation", self.validation) if training else (),
            self.options if training else {},
            progress=progress,
        )


def calibrate(ingredients: Ingredients, method: str, folder: Path, progress: bool = False) -> None:
    """Train the method's composition and save it in 16 bits, as a device would hold it."""
    import torch

    from onepass.adapters.composition import save_composition
    from onepass.methods import METHODS

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


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("runs/demo"),
    examples: Annotated[int, typer.Option(min=1, help="To calibrate on.")] = 4000,
    test: Annotated[int, typer.Option(min=1, help="Conversations to compare on.")] = 100,
) -> None:
    """Compose two tasks in one pass, offline, and compare the methods.

    Takes the embedded base with its adapters for summaries and for Spanish, calibrates them to
    write Spanish summaries in one pass, and compares that with the other ways there are.

    \b
    Example:
      onepass demo --out runs/demo
    """
    parts = parse_task(TASK).parts
    ingredients = Ingredients(
        model="tiny",
        adapters={part.name: embedded_adapter(part.name) for part in parts},
        examples=examples,
        validation=100,
        options={"max_steps": 300, "batch_size": 16, "eval_every": 100, "patience": None},
    )
    compare(ingredients, out, test)


def compare(ingredients: Ingredients, out: Path, test: int, max_new_tokens: int = 128) -> None:
    """Calibrate, run every method on `test` conversations, and print what came of it."""
    began = time.perf_counter()
    for method in ("lc", "lc++"):
        check_writable(out / method)

    from onepass.adapters.adapter import load_adapter
    from onepass.adapters.composition import COMPOSITION_FILES, cost, load_composition
    from onepass.adapters.storage import check_replaceable
    from onepass.cli.held_out import predict
    from onepass.cli.side_by_side import print_comparison, print_conversations
    from onepass.methods import METHODS

    for method in ("lc", "lc++"):
        check_replaceable(out / method, COMPOSITION_FILES)
    for path in ingredients.adapters.values():
        load_adapter(path)  # what is wrong with one should not first show in a second process
    note(f"calibrating lc and lc++ for {TASK} on {ingredients.examples} examples, side by side ...")
    with beside(ingredients, "lc", out / "lc"):
        calibrate(ingredients, "lc++", out / "lc++", progress=True)
    setting = ingredients.setting(training=False)
    compositions = {
        method: load_composition(out / method)
        if METHODS.get(method).learns
        else METHODS.get(method).build(setting)
        for method in COMPARED
    }
    task = setting.task
    tests = load_corpus("smalltown").examples(task, "test", test)
    outputs = {
        method: predict(setting.base, composition, tests, method, max_new_tokens)
        for method, composition in compositions.items()
    }
    costs = {method: cost(composition) for method, composition in compositions.items()}
    print_comparison(outputs, costs, tests, task)
    print_conversations(outputs, tests[:SHOWN], task)

    conversation = out / "conversation.txt"
    write_text(conversation, tests[0].input + "\n")
    typer.echo(f"The compositions are in {out / 'lc'} and {out / 'lc++'}. Run one on a text file")
    typer.echo("with a conversation of your own; here is one to begin with:")
    typer.echo(f"  onepass generate {out / 'lc++'} --input {conversation}")
    note(f"all in {time.perf_counter() - began:.0f} s")
