"""chrF (Popović 2015) per output, by sacrebleu with its standard settings (chrF2)."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from onepass.evaluate.metrics.metric import register
from onepass.tasks.example import Example
from onepass.tasks.task import Task

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF


@cache
def _chrf() -> "CHRF":
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def chrf(predictions: Sequence[str], examples: Sequence[Example], task: Task) -> list[float]:
    """chrF2 in [0, 1]; of several targets the best counts."""
    return [
        _chrf().sentence_score(prediction, list(example.targets)).score / 100
        for prediction, example in zip(predictions, examples, strict=True)
    ]


register("chrf", "chrF", chrf)
