"""From outputs to scores: every metric that applies, per example."""

from collections.abc import Sequence

from onepass.core.errors import OnepassError
from onepass.evaluate.metrics import METRICS
from onepass.tasks.example import Example
from onepass.tasks.task import Task


def score(
    predictions: Sequence[str],
    examples: Sequence[Example],
    task: Task,
    metrics: Sequence[str] | None = None,
) -> dict[str, list[float | None]]:
    """Per metric name one score in [0, 1] for each output, in the order of `examples`.

    `metrics` defaults to all that are `by_default`. A metric that applies to no example is left
    out. Raises `OnepassError` for an unknown metric, and where predictions and examples do not pair
    up.
    """
    if len(predictions) != len(examples):
        raise OnepassError(
            f"{len(predictions)} predictions for {len(examples)} examples; give one for each"
        )
    if metrics is None:
        metrics = [name for name in METRICS if METRICS.get(name).by_default]
    chosen = [METRICS.get(name) for name in metrics]
    scores = {metric.name: list(metric.score(predictions, examples, task)) for metric in chosen}
    return {
        name: values
        for name, values in scores.items()
        if any(value is not None for value in values)
    }
