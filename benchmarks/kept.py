"""What `onepass bench` made of a recipe's task, for benchmarks that run it again elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onepass.adapters.composition import Composition, load_composition
from onepass.comparison.materials import inputs_identity, split_examples
from onepass.comparison.recipe import Recipe, load_recipe
from onepass.comparison.runs import COMPOSITION, PREDICTIONS, Run, load_runs
from onepass.core.errors import OnepassError
from onepass.core.files import read_jsonl
from onepass.evaluate.score import score
from onepass.evaluate.stats import paired_test
from onepass.tasks.example import Example
from onepass.tasks.task import Task

Scores = dict[str, list[float]]
"""By metric a score in percent for each conversation."""


@dataclass(frozen=True)
class Kept:
    """The finished cells of a recipe's first task, and the conversations they were tested on."""

    recipe: Recipe
    folder: Path
    runs: Sequence[Run]
    examples: Sequence[Example]

    @property
    def task(self) -> Task:
        return self.recipe.task(self.recipe.tasks[0])

    @property
    def texts(self) -> list[str]:
        return [example.input for example in self.examples]

    def run(self, method: str) -> Run:
        """The method's run with most training examples, of the first seed."""
        found = [run for run in self.runs if run.method == method]
        if not found:
            raise OnepassError(f"{self.folder} has no finished cell of {method}; run the bench")
        return min(found, key=lambda run: (-run.examples, run.seed))

    def composition(self, method: str) -> Composition:
        folder = self.folder / self.run(method).cell.place / COMPOSITION
        if not folder.is_dir():
            raise OnepassError(f"there is no {folder}; run the recipe with `keep: true`")
        return load_composition(folder)

    def predictions(self, method: str) -> list[str]:
        """The outputs that were stored for the `examples`."""
        path = self.folder / self.run(method).cell.place / PREDICTIONS
        rows = [row for _, row in read_jsonl(path) if row["split"] == self.recipe.splits[0]]
        by_id = {row["id"]: str(row["prediction"]) for row in rows}
        return [by_id[example.id] for example in self.examples]

    def scores(self, outputs: Sequence[str]) -> Scores:
        found = score(outputs, self.examples, self.task, self.recipe.metrics)
        return {name: [100 * (v or 0.0) for v in values] for name, values in found.items()}


def kept(recipe: Path, runs: Path, count: int | None = None) -> Kept:
    """What there is in the folder `runs`/NAME of a recipe, and its first `count` conversations.

    Raises:
        OnepassError: there are no runs, or they were tested on other conversations than the
            recipe's corpus has now.
    """
    loaded = load_recipe(recipe)
    folder = runs / loaded.name
    _, found = load_runs(folder)
    found = [run for run in found if run.task == loaded.tasks[0]]
    result = found[0].splits[loaded.splits[0]]
    tested = loaded.model_copy(update={"test": result.count})
    examples = split_examples(tested, loaded.tasks[0], loaded.splits[0])
    if inputs_identity(examples) != result.inputs:
        raise OnepassError(f"{folder} was tested on other conversations than {recipe} has now")
    return Kept(loaded, folder, found, examples[:count])


def means(scores: Scores) -> dict[str, float]:
    return {name: sum(values) / len(values) for name, values in scores.items()}


def differences(scores: Scores, other: Scores) -> dict[str, list[float]]:
    """By metric the mean of `scores` less `other`, and the ends of its 95 % interval."""
    found = {name: paired_test(values, other[name]) for name, values in scores.items()}
    return {name: [each.difference, each.low, each.high] for name, each in found.items()}
