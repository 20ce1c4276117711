"""The examples that runs were tested on, each with what the methods made of it.

Inputs and targets are read from the file that a cell keeps them in, if its recipe says `keep`, or
else from the recipe's corpus.

    EXAMPLES   {"split", "id", "input", "targets", "prediction", "reasons"}
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepass.comparison.materials import inputs_identity, split_examples
from onepass.comparison.recipe import Recipe
from onepass.comparison.results import Results
from onepass.comparison.runs import EXAMPLES, PREDICTIONS, Run
from onepass.core.errors import OnepassError
from onepass.core.files import read_jsonl
from onepass.core.registry import unknown
from onepass.tasks.example import Example
from onepass.tasks.task import Task


@dataclass(frozen=True)
class Outcome:
    """An example and a run's output for it; `reasons`: what the verifier finds wrong, or ""."""

    id: str
    input: str
    targets: tuple[str, ...]
    output: str
    reasons: str


@dataclass(frozen=True)
class Answer:
    """What one method made of an example.

    scores: 0 to 1 by metric, to three decimals; None where the metric does not apply.
    reasons: what the verifier finds wrong; "" if nothing, or if nothing can be verified.
    """

    output: str
    scores: Mapping[str, float | None]
    reasons: str


@dataclass(frozen=True)
class ExampleRow:
    """One example of a task, and what each of some methods made of it with one seed."""

    task: str
    seed: int
    id: str
    input: str
    targets: tuple[str, ...]
    answers: Mapping[str, Answer]
    """By method, those that were tested on this example."""


def read_example_rows(
    folder: Path, results: Results, methods: Sequence[str] = (), corpus: str | None = None
) -> list[ExampleRow]:
    """The examples of the comparison's split with the outputs of `methods` (default: of all).

    Each method's runs are those at its largest budget. `corpus`: where the recipe's corpus is now.

    Raises `OnepassError` for a method that is unknown or has no run, and if predictions or examples
    are missing, damaged, or not those of the run.
    """
    methods = methods or results.methods
    runs = [run for name in methods for run in runs_of(results, name)]
    tested = {
        run.cell: read_tested(folder, run, results.recipe, results.split, corpus) for run in runs
    }
    return gather([(run, tested[run.cell]) for run in runs], results.split)


def runs_of(results: Results, method: str) -> list[Run]:
    """A method's runs at its largest budget; an `OnepassError` if there is none."""
    if method not in results.recipe.methods:
        raise unknown("method", method, results.methods)
    found = results.of(method)
    if not found:
        raise OnepassError(
            f"no cell of method {method!r} is finished; run `onepass bench`, or choose among "
            f"{', '.join(results.methods)}"
        )
    return found


def gather(tested: Iterable[tuple[Run, Sequence[Outcome]]], split: str) -> list[ExampleRow]:
    """One row per task, seed and example, in the order of the runs, then of the examples."""
    rows: dict[tuple[str, int, str, int], ExampleRow] = {}
    for run, examples in tested:
        result = run.splits[split]
        scores = {name: result.values(name) for name in result.scores}
        for place, each in enumerate(examples):
            own = {
                name: values[place] if place < len(values) else None
                for name, values in scores.items()
            }
            key = (run.task, run.seed, result.inputs, place)
            row = rows.setdefault(
                key, ExampleRow(run.task, run.seed, each.id, each.input, each.targets, {})
            )
            answer = Answer(each.output, own, each.reasons)
            rows[key] = ExampleRow(
                row.task,
                row.seed,
                row.id,
                row.input,
                row.targets,
                {**row.answers, run.method: answer},
            )
    return list(rows.values())


def read_tested(
    folder: Path, run: Run, recipe: Recipe, split: str, corpus: str | None = None
) -> list[Outcome]:
    """A run's examples of a split and its outputs, in their order.

    From the file that the cell keeps, unless a `corpus` is given. Raises `OnepassError` as
    `read_outputs`, and if the file is not that of the run.
    """
    path = folder / run.cell.place / EXAMPLES
    if corpus is None and path.is_file():
        return _read_kept(path, run, split)
    task = recipe.task(run.task)
    outputs = read_outputs(folder, run, recipe, [split], corpus)[split]
    return [
        Outcome(example.id, example.input, example.targets, text, reasons(text, example, task))
        for example, text in outputs
    ]


def reasons(output: str, example: Example, task: Task) -> str:
    """What the verifier finds wrong with an output; "" if nothing, or if it cannot tell."""
    if "meaning" not in example.meta:
        return ""
    # The verifier reads the benchmark's lexicons, which other data should not pay for.
    from onepass.smalltown.read import verify

    return verify(output, example.meta, task).why


def kept_row(split: str, example: Example, output: str, task: Task) -> dict[str, Any]:
    """A line of `EXAMPLES`."""
    return {
        "split": split,
        "id": example.id,
        "input": example.input,
        "targets": list(example.targets),
        "prediction": output,
        "reasons": reasons(output, example, task),
    }


def _read_kept(path: Path, run: Run, split: str) -> list[Outcome]:
    found = []
    for number, row in read_jsonl(path):
        texts = [row.get(name) for name in ("split", "id", "input", "prediction", "reasons")]
        targets = row.get("targets")
        if not isinstance(targets, list) or not all(isinstance(t, str) for t in (*texts, *targets)):
            raise OnepassError(
                f"{path}, line {number}: not an example with its targets, prediction and reasons; "
                f"remove the file, and {PREDICTIONS} and the corpus are read instead"
            )
        if row["split"] == split:
            found.append(
                Outcome(row["id"], row["input"], tuple(targets), row["prediction"], row["reasons"])
            )
    _check_count(path, run, split, len(found))
    return found


def read_outputs(
    folder: Path, run: Run, recipe: Recipe, splits: Sequence[str], corpus: str | None = None
) -> dict[str, list[tuple[Example, str]]]:
    """A run's outputs by split, each with its example from the recipe's corpus.

    corpus: where that corpus is now. Raises `OnepassError` if predictions are missing or damaged,
    or the corpus is not, or no longer, the one they were made on.
    """
    path = folder / run.cell.place / PREDICTIONS
    if not path.is_file():
        raise OnepassError(
            f"{path} does not exist: these results were copied without their predictions; "
            "name the folder that `onepass bench` made, or run the bench again"
        )
    outputs: dict[str, list[tuple[str, str]]] = {}
    for number, row in read_jsonl(path):
        for name in ("split", "id", "prediction"):
            if not isinstance(row.get(name), str):
                raise OnepassError(f'{path}, line {number}: "{name}" is not a text')
        outputs.setdefault(row["split"], []).append((row["id"], row["prediction"]))
    if corpus is not None:
        recipe = recipe.model_copy(update={"corpus": corpus})
    found = {}
    for split in splits:
        _check_count(path, run, split, len(outputs.get(split, [])))
        examples = _examples(recipe, run, split, moved=corpus is not None)
        ids = [id for id, _ in outputs.get(split, [])]
        known = {example.id for example in examples}
        if ids != [example.id for example in examples]:
            strange = next((id for id in ids if id not in known), None)
            what = f"has no example {strange!r}" if strange else "has its examples in another order"
            raise OnepassError(
                f"{recipe.corpus} {what} in the split {split!r} of {run.task}, as {path} needs; "
                f"{_MOVED}"
            )
        found[split] = [(e, text) for e, (_, text) in zip(examples, outputs[split], strict=True)]
    return found


_MOVED = "give the corpus the predictions were made on with --corpus, or run the bench again"


def _check_count(path: Path, run: Run, split: str, count: int) -> None:
    wanted = run.splits[split].count
    if count != wanted:
        raise OnepassError(
            f"{path} has {count} predictions on the split {split!r}, but {wanted} were scored: it "
            f"is damaged; remove {path.parent} and run the bench again"
        )


def _examples(recipe: Recipe, run: Run, split: str, *, moved: bool) -> Sequence[Example]:
    """The examples that a run was tested on."""
    try:
        examples = split_examples(recipe, run.task, split)
    except OnepassError as error:
        if moved:
            raise
        raise OnepassError(
            f"the recipe's corpus {recipe.corpus} cannot be read from here ({error}); "
            "say where it is with --corpus"
        ) from error
    if inputs_identity(examples) != run.splits[split].inputs:
        raise OnepassError(
            f"{recipe.corpus} has other texts for {run.task}, split {split!r}, than when "
            f"{run.cell.place} was run; {_MOVED}"
        )
    return examples
