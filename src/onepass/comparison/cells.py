"""The cells of a recipe, and the jobs that make them.

A cell is one method on one task with one budget and one seed. A job is what a worker takes: one
training and its cells, a single one except for shared methods. Both are plain, picklable data.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepass.comparison.recipe import Recipe
from onepass.core.errors import OnepassError
from onepass.methods import METHODS
from onepass.tasks.task import slug

SHOWN_EXAMPLES = 50
"""Training examples for methods that do not learn but may show some; whatever the budgets."""


@dataclass(frozen=True, order=True)
class Cell:
    """One entry of the comparison; `examples` is 0 for a method that does not learn."""

    method: str
    task: str
    examples: int
    seed: int

    def __str__(self) -> str:
        budget = f", {self.examples} examples" if self.examples else ""
        return f"{self.method} on {self.task}{budget}, seed {self.seed}"

    @property
    def place(self) -> Path:
        """Its folder, relative to that of the runs."""
        return Path(self.method) / slug(self.task) / f"{self.examples}-{self.seed}"


@dataclass(frozen=True)
class Job:
    """The `cells` that come of one training on the tasks `together` (for a shared method, all).

    redo: also those of them that other code of the method has made.
    """

    cells: tuple[Cell, ...]
    together: tuple[str, ...]
    redo: bool = False

    @property
    def method(self) -> str:
        return self.cells[0].method

    @property
    def examples(self) -> int:
        return self.cells[0].examples

    @property
    def seed(self) -> int:
        return self.cells[0].seed

    @property
    def title(self) -> str:
        many = len(self.together) > 1
        return f"{self.method} {f'{len(self.together)} tasks' if many else self.together[0]}"

    @property
    def slug(self) -> str:
        """A file name of its own: for its training state, its lock and its failure."""
        tasks = "together" if len(self.together) > 1 else slug(self.together[0])
        return f"{self.method}-{tasks}-{self.examples}-{self.seed}"


def jobs_of(recipe: Recipe, only: Sequence[str] = ()) -> list[Job]:
    """The jobs of a recipe, the biggest first, so that workers end at about the same time.

    `only`: glob patterns METHOD or METHOD/TASK; a cell that none of them matches is left out.
    Raises `OnepassError` if that leaves nothing.
    """
    jobs = []
    for name in recipe.methods:
        method = METHODS.get(name)
        groups = [recipe.tasks] if method.shared else [[task] for task in recipe.tasks]
        for examples in recipe.examples if method.learns else [0]:
            for seed in recipe.seeds:
                for group in groups:
                    cells = [Cell(name, task, examples, seed) for task in group]
                    if only:
                        cells = [cell for cell in cells if any(matches(cell, p) for p in only)]
                    if cells:
                        jobs.append(Job(tuple(cells), tuple(group)))
    if not jobs:
        raise OnepassError(
            f"no cell of recipe {recipe.name} is like {' or '.join(only)}; write METHOD or "
            f"METHOD/TASK, with methods {', '.join(recipe.methods)}"
        )
    return sorted(jobs, key=lambda job: work(job, recipe), reverse=True)


def matches(cell: Cell, pattern: str) -> bool:
    """Whether a cell is like METHOD or METHOD/TASK, in which * and ? match any."""
    method, _, task = pattern.partition("/")
    return fnmatch.fnmatchcase(cell.method, method) and fnmatch.fnmatchcase(cell.task, task or "*")


def methods_like(recipe: Recipe, patterns: Sequence[str]) -> set[str]:
    """The recipe's methods that a pattern matches; an `OnepassError` for one that matches none."""
    found = {pattern: fnmatch.filter(recipe.methods, pattern) for pattern in patterns}
    for pattern, names in found.items():
        if not names:
            raise OnepassError(
                f"no method of recipe {recipe.name} is like {pattern!r}; it has "
                f"{', '.join(recipe.methods)}"
            )
    return {name for names in found.values() for name in names}


def work(job: Job, recipe: Recipe) -> float:
    """Roughly how many examples pass through the model, forward; for sorting only."""
    # A training step is a forward and a backward pass; generating takes a pass for every token,
    # though each over one token only.
    return 3 * trained_examples(job, recipe) + 4 * tested_examples(job, recipe)


def tested_examples(job: Job, recipe: Recipe) -> int:
    """At most so many outputs are generated to test what the job makes."""
    return len(job.cells) * recipe.test * len(recipe.splits)


def trained_examples(job: Job, recipe: Recipe) -> float:
    """How many examples the job's training goes through, each counted as often as it is seen.

    An upper bound: trainings may stop early.
    """
    if not job.examples:
        return 0.0
    return seen_examples(job.examples * len(job.together), recipe.options.get(job.method, {}))


def seen_examples(examples: int, options: Mapping[str, Any]) -> float:
    """How many examples a training on so many goes through, by its options."""
    if not options.get("max_steps"):
        return examples * float(options.get("epochs") or 3.0)
    per_step = (options.get("batch_size") or 16) * (options.get("accumulation") or 1)
    return float(options["max_steps"] * per_step)
