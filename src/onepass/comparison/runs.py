"""Runs on disk: one folder per cell, whole or absent.

DIR/recipe.yaml                                    the recipe, as it was written
DIR/<method>/<task>/<examples>-<seed>/run.json     scores, cost, seconds, environment
DIR/<method>/<task>/<examples>-<seed>/predictions.jsonl   {"split", "id", "prediction"}
DIR/<method>/<task>/<examples>-<seed>/history.json losses of its training, if it had one
DIR/<method>/<task>/<examples>-<seed>/composition/ what was tested, if the recipe says `keep`
DIR/<method>/<task>/<examples>-<seed>/examples.jsonl   on what, and the outputs, if it does
DIR/.state/                                        trainings in flight; safe to remove
DIR/.failures/                                     why a cell failed, until it succeeds
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from onepass.adapters.composition import Composition, save_composition
from onepass.adapters.history import HISTORY, History, write_history
from onepass.comparison.cells import Cell
from onepass.comparison.recipe import Recipe, parse_recipe
from onepass.core.errors import OnepassError
from onepass.core.files import (
    atomic_folder,
    read_json,
    read_text,
    write_json,
    write_jsonl,
    write_text,
)
from onepass.methods import METHODS

RECIPE, RUN, PREDICTIONS = "recipe.yaml", "run.json", "predictions.jsonl"
COMPOSITION, EXAMPLES = "composition", "examples.jsonl"
STATE, FAILURES = ".state", ".failures"
CODE = "method_code"
"""In a run's environment: `Method.code` when it was made. Older runs lack it."""

Scores = list[float | None]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitResult(_Record):
    """What came out on one split.

    `scores`: per metric one number per example, as text of three decimals ("1 0.333 - 1"), which
    keeps the file small and readable; `means` are exact. `inputs` is equal where two results are
    of the same inputs.
    """

    count: int
    inputs: str
    means: dict[str, float]
    scores: dict[str, str]
    seconds: float
    tokens: int
    tokens_per_second: float
    shortened_inputs: int
    """Inputs that lost text to fit the context."""

    def values(self, metric: str) -> Scores:
        """One score per example; empty where the metric does not apply."""
        return unpack(self.scores[metric]) if metric in self.scores else []


class RunCost(_Record):
    """As `onepass.adapters.composition.Cost`, saved in 16 bits; and what to hold it against."""

    passes: int
    extra_parameters: int
    extra_bytes: int
    shared_by: int
    """Tasks that one calibration serves, so that each bears that part of its cost."""
    adapter_parameters: float | None
    """The mean over the task adapters; None if there is none."""


class Run(_Record):
    """The result of one cell. `seconds` has "build" (of its whole job) and "generate"."""

    format: Literal["onepass run 1"] = "onepass run 1"
    recipe: str
    method: str
    task: str
    metric: str = ""
    """That of the task."""
    examples: int
    seed: int
    fingerprint: str
    splits: dict[str, SplitResult]
    cost: RunCost
    seconds: dict[str, float]
    card: dict[str, Any]
    environment: dict[str, str]
    shown: list[str] = []
    """The answers to the recipe's texts `show`, in their order."""

    @property
    def cell(self) -> Cell:
        return Cell(self.method, self.task, self.examples, self.seed)


def pack(scores: Sequence[float | None]) -> str:
    """Scores as text, to three decimals; "-" where a metric does not apply."""
    return " ".join("-" if s is None else f"{s:.3f}".rstrip("0").rstrip(".") for s in scores)


def unpack(text: str) -> Scores:
    return [None if part == "-" else float(part) for part in text.split()]


def save_run(
    run: Run,
    predictions: Sequence[Mapping[str, str]],
    folder: Path,
    history: History | None = None,
    composition: Composition | None = None,
    examples: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Put a run in its place below `folder`, replacing what was there.

    composition, examples: what was tested, and on what, if they are to be kept.
    """
    with atomic_folder(folder / run.cell.place) as temporary:
        write_json(temporary / RUN, run.model_dump(mode="json"))
        write_jsonl(temporary / PREDICTIONS, [dict(row) for row in predictions])
        write_history(history, temporary / HISTORY)
        if composition is not None:
            save_composition(composition, temporary / COMPOSITION)
        if examples:
            write_jsonl(temporary / EXAMPLES, [dict(row) for row in examples])


def load_run(path: Path) -> Run:
    try:
        return Run.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise OnepassError(
            f"{path}, field {field}: {first['msg']}; remove its folder and run the bench again"
        ) from error


def done_run(
    cell: Cell, fingerprint: str, folder: Path, redo: bool = False, keep: bool = False
) -> Run | None:
    """The cell's run of this very fingerprint; None where none can be read.

    redo: nor one that may have been made by other code of its method than there is now.
    keep: nor one whose composition was not kept.
    """
    path = folder / cell.place / RUN
    if not path.is_file() or (keep and not (folder / cell.place / COMPOSITION).is_dir()):
        return None
    try:
        run = load_run(path)
    except OnepassError:
        return None
    outdated = redo and run.environment.get(CODE) != METHODS.get(cell.method).code
    return None if outdated or run.fingerprint != fingerprint else run


def changed_code(runs: Iterable[Run]) -> str:
    """What to say of runs that other code of their methods made than there is now; "" for none."""
    changed = Counter(
        run.method
        for run in runs
        if run.environment.get(CODE) not in (None, METHODS.get(run.method).code)
    )
    if not changed:
        return ""
    return (
        f"Since {changed.total()} of these cells were run, the code of their methods has changed; "
        f"`onepass bench RECIPE --redo {' '.join(changed)}` runs them again."
    )


def open_folder(folder: Path, recipe: Recipe, text: str) -> None:
    """Make `folder` the place of this recipe's runs, with a copy of its `text`.

    Raises `OnepassError` if it holds another recipe's, or files that are no runs at all.
    """
    path = folder / RECIPE
    if path.is_file():
        owner = parse_recipe(read_text(path), path).name
        if owner != recipe.name:
            raise OnepassError(
                f"{folder} holds the runs of recipe {owner}, not of {recipe.name}; "
                "choose another --out, or give the recipe that name"
            )
        if read_text(path) == text:
            return
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OnepassError(f"{folder} holds something other than runs; choose another --out")
    write_text(path, text)


def load_runs(folder: Path) -> tuple[Recipe, list[Run]]:
    """The recipe and the finished runs of a folder, in the recipe's order.

    Runs of tasks, methods, budgets, seeds or splits that the recipe no longer has are left out.
    """
    path = folder / RECIPE
    if not path.is_file():
        raise OnepassError(f"{folder} has no {RECIPE}; give the folder that `onepass bench` made")
    recipe = parse_recipe(read_text(path), path)
    runs = [load_run(found) for found in sorted(folder.glob(f"*/*/*/{RUN}"))]
    runs = [
        run.model_copy(update={"metric": run.metric or recipe.task(run.task).metric})
        for run in runs
        if run.method in recipe.methods
        and run.task in recipe.tasks
        and run.examples in (0, *recipe.examples)
        and run.seed in recipe.seeds
        and all(split in run.splits for split in recipe.splits)
    ]
    if not runs:
        raise OnepassError(f"{folder} has no finished runs yet; run `onepass bench`")
    order = {name: place for place, name in enumerate([*recipe.methods, *recipe.tasks])}
    runs.sort(key=lambda run: (order[run.method], order[run.task], run.examples, run.seed))
    return recipe, runs
