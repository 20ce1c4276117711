"""Running a recipe: finished cells stay, the others are run, failures are reported."""

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from onepass.comparison.cells import Job, jobs_of
from onepass.comparison.materials import fingerprint
from onepass.comparison.recipe import Recipe
from onepass.comparison.runs import FAILURES, STATE, Run, changed_code, done_run, open_folder
from onepass.comparison.workers import Backend, Events, Failed, Finished
from onepass.core.files import write_text


@dataclass(frozen=True)
class Plan:
    """The `jobs` that still have to be done; how many cells are asked for, and are `done`.

    changed: what there is to say of methods that have changed since.
    """

    jobs: list[Job]
    cells: int
    done: int
    changed: str


def make_plan(
    recipe: Recipe, folder: Path, only: Sequence[str] = (), redo: Collection[str] = ()
) -> Plan:
    """Compare what the recipe asks for with what `folder` holds.

    Reads all examples that will be needed, so that what is wrong with them shows now.
    redo: methods of which a cell is done only if their code of now has made it.
    """
    asked = jobs_of(recipe, only)
    left: list[Job] = []
    done: list[Run] = []
    for job in asked:
        again = job.method in redo
        runs = {
            cell: done_run(cell, fingerprint(recipe, cell, job), folder, again, recipe.keep)
            for cell in job.cells
        }
        done += [run for run in runs.values() if run]
        cells = tuple(cell for cell, run in runs.items() if not run)
        if cells:
            left.append(Job(cells, job.together, again))
    return Plan(left, sum(len(job.cells) for job in asked), len(done), changed_code(done))


def run_bench(plan: Plan, recipe: Recipe, text: str, folder: Path, backend: Backend) -> Events:
    """Do the jobs of the plan on `backend`; the events as they come.

    `text` is the recipe as written, of which `folder` keeps a copy. A failed job is recorded in
    `folder` and does not keep the others from being done. Close the iterator to stop early.
    """
    open_folder(folder, recipe, text)
    failed = 0
    finished = plan.done
    events = backend(plan.jobs, recipe, folder)
    try:
        for event in events:
            if isinstance(event, Failed):
                failed += 1
                write_text(
                    folder / FAILURES / f"{event.job.slug}.txt", event.details.rstrip() + "\n"
                )
            elif isinstance(event, Finished):
                finished += event.cells
                (folder / FAILURES / f"{event.job.slug}.txt").unlink(missing_ok=True)
            yield event
    finally:
        events.close()
    if not failed and finished == plan.cells:
        # Trainings of other cells, which were not asked for now, go on from what is there.
        if not any(path.is_dir() for path in (folder / STATE).glob("*")):
            shutil.rmtree(folder / STATE, ignore_errors=True)
        if (folder / FAILURES).is_dir() and not any((folder / FAILURES).iterdir()):
            (folder / FAILURES).rmdir()
