"""Comparing methods: a recipe's cells run, and the report on them."""

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from onepass.adapters.adapter import Adapter
from onepass.comparison.adapters import missing, train_missing, with_places
from onepass.comparison.bench import Plan, make_plan, run_bench
from onepass.comparison.cells import methods_like
from onepass.comparison.changes import changed_text
from onepass.comparison.html.page import write_report_page
from onepass.comparison.overlap import overlap
from onepass.comparison.recipe import Recipe, recipe_from
from onepass.comparison.report import Report, make_report
from onepass.comparison.runs import open_folder
from onepass.comparison.workers import Event, Failed, in_processes, in_this_process
from onepass.core.errors import OnepassError
from onepass.core.files import read_text
from onepass.model.load import check_loadable


@dataclass(frozen=True)
class Bench:
    """A recipe that is to be run in a folder, checked; see `open_bench`."""

    recipe: Recipe
    text: str
    folder: Path
    only: Sequence[str]
    again: frozenset[str]

    def plan(self) -> Plan:
        """What there is to do; reads all examples that will be needed."""
        return make_plan(self.recipe, self.folder, self.only, self.again)

    def overlap(self) -> str:
        """What there is to say of inputs that are both trained and tested on; reads them."""
        return overlap(self.recipe, self.only)

    def untrained(self) -> list[str]:
        """The single tasks whose adapters are to be trained first."""
        return missing(self.recipe, self.only)

    def train(self, on_done: Callable[[str, Adapter], None]) -> None:
        """Train those, one after the other."""
        open_folder(self.folder, self.recipe, self.text)
        train_missing(self.recipe, self.folder, self.only, on_done)

    def run(
        self, plan: Plan, workers: int | None, on_event: Callable[[Event], None]
    ) -> list[Failed]:
        """Do what the plan says in processes (0: in this one); the jobs that failed."""
        count = default_workers(self.recipe.device) if workers is None else workers
        backend = in_processes(count) if count else in_this_process
        failures = []
        events = run_bench(plan, self.recipe, self.text, self.folder, backend)
        with closing(events):
            for event in events:
                on_event(event)
                if isinstance(event, Failed):
                    failures.append(event)
        return failures


def open_bench(
    recipe: Path | str,
    out: Path | str | None = None,
    *,
    only: Sequence[str] = (),
    redo: Sequence[str] = (),
    changes: Sequence[str] = (),
) -> Bench:
    """The recipe in a YAML file, with `changes` such as "base=FOLDER", ready to run in `out`.

    only: METHOD or METHOD/TASK of the cells to run. redo: methods to run again where their code
    has changed since. `out` defaults to runs/NAME.
    """
    recipe = Path(recipe)
    text = changed_text(read_text(recipe), recipe, changes)
    loaded = recipe_from(text, recipe)
    folder = Path(out) if out else Path("runs") / loaded.name
    loaded = with_places(loaded, folder)
    return Bench(loaded, text, folder, only, frozenset(methods_like(loaded, redo)))


def bench(
    recipe: Path | str,
    out: Path | str | None = None,
    *,
    workers: int | None = None,
    only: Sequence[str] = (),
    redo: Sequence[str] = (),
    changes: Sequence[str] = (),
    on_event: Callable[[Event], None] = lambda event: None,
) -> Report:
    """Run the cells of a recipe that are not yet done; the report on all that are.

    Options as for `open_bench`; workers: processes of one thread, by default as many as cores.
    Raises `OnepassError` where a job failed; the others are done nonetheless, and are not done
    again when this is called again.
    """
    found = open_bench(recipe, out, only=only, redo=redo, changes=changes)
    wanted = found.recipe
    check_loadable(wanted.base, wanted.device, wanted.dtype, wanted.quantization)
    if found.untrained():
        found.train(lambda task, adapter: None)
    failures = found.run(found.plan(), workers, on_event)
    if failures:
        raise OnepassError(
            f"{len(failures)} jobs failed, the first is {failures[0].job.title}: "
            f"{failures[0].message}; details are in {found.folder / '.failures'}"
        )
    return make_report(found.folder)


def report(
    folder: Path | str,
    *,
    against: Path | str | None = None,
    html: Path | str | None = None,
    corpus: str | None = None,
) -> Report:
    """The report on the finished runs of a folder.

    against: a folder of runs to compare with, method by method. html: also write the report, with
    the examples, into this file, as a page for a browser. corpus: where the recipe's corpus is now,
    for the examples. Raises `OnepassError` if there are no runs, or none to compare.
    """
    found = make_report(folder, other=against)
    if html is not None:
        write_report_page(found, folder, html, corpus)
    return found


def default_workers(device: str) -> int:
    """A process for each core; one where all would share a GPU, whose memory each takes."""
    on_gpu = device.startswith("cuda") or (
        device in ("auto", "balanced") and torch.cuda.is_available()
    )
    return 1 if on_gpu else os.cpu_count() or 1
