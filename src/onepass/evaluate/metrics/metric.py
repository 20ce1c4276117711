"""What a metric is, and the register of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onepass.core.registry import Registry
from onepass.tasks.example import Example
from onepass.tasks.task import Task

Score = Callable[[Sequence[str], Sequence[Example], Task], Sequence[float | None]]
"""(predictions, examples, task), the first two in the same order, to one number each in [0, 1].

None stands where the metric does not apply to that example.
"""


@dataclass(frozen=True)
class Metric:
    """A way of scoring outputs; `title` is its heading in a table.

    One that is not `by_default` is reported only where it is asked for by name.
    """

    name: str
    title: str
    score: Score
    by_default: bool = True


METRICS: Registry[Metric] = Registry("metric")


def register(name: str, title: str, score: Score, by_default: bool = True) -> Metric:
    """Make the metric and enter it into `METRICS`."""
    return METRICS.add(name, Metric(name, title, score, by_default))
