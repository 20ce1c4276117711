"""Running a composition on test examples, and the table of its scores."""

from collections.abc import Sequence

import onepass.smalltown.verified  # noqa: F401
from onepass.adapters.composition import Composition
from onepass.cli.show import SCORE_HEADER, counting, note, print_table, score_row
from onepass.evaluate.metrics import METRICS
from onepass.evaluate.score import score
from onepass.evaluate.stats import mean_interval
from onepass.model.generate import run
from onepass.model.load import Base
from onepass.tasks.example import Example
from onepass.tasks.task import Task


def predict(
    base: Base,
    composition: Composition,
    examples: Sequence[Example],
    title: str = "testing",
    max_new_tokens: int = 128,
) -> list[str]:
    """The composition's output for each example, with a progress bar."""
    with counting(title, len(examples) * len(composition.passes)) as progress:
        texts = [example.input for example in examples]
        return run(base, composition, texts, max_new_tokens, progress=progress).texts


def print_scores(
    base: Base, composition: Composition, task: Task, examples: Sequence[Example]
) -> None:
    """Print the task's own metric, and what the verifier says where there is one."""
    print_score_table(
        predict(base, composition, examples), examples, task, [task.metric, *VERIFIER]
    )


VERIFIER = ("facts", "right_language", "right_tone", "verified")


def print_score_table(
    predictions: Sequence[str],
    examples: Sequence[Example],
    task: Task,
    metrics: Sequence[str] | None = None,
) -> None:
    """Print each metric (default: all that apply) in percent, with its 95 % bootstrap interval."""
    scores = score(predictions, examples, task, metrics)
    rows = [
        score_row(METRICS.get(name).title, mean_interval(values)) for name, values in scores.items()
    ]
    if not rows:
        note("none of these metrics applies to these examples")
        return
    print_table(SCORE_HEADER, rows, numbers=True)
