"""ROUGE (Lin 2004) and the weighted ROUGE of reply suggestion (Zhang et al. 2021).

Of several targets the best counts, as in rouge-score's `score_multi`; the metrics that end in
"_mean" take the mean over them instead, and are reported only where asked for.

Words are runs of letters and digits of any script, lower case: the tokenizer of rouge-score keeps
a-z only, and so would drop "é" and score "été" as "t".
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from statistics import fmean
from typing import TYPE_CHECKING

from onepass.evaluate.metrics.metric import register
from onepass.tasks.example import Example
from onepass.tasks.task import Task

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


class Words:
    """Words of any language, as a tokenizer of rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        # One letter may be written as one code point or two; both are the same word.
        return re.findall(r"\w+", unicodedata.normalize("NFC", text).lower())


@cache
def _scorer(kinds: tuple[str, ...]) -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer  # with nltk, which takes seconds

    return RougeScorer(list(kinds), tokenizer=Words())


def rouge(
    predictions: Sequence[str],
    examples: Sequence[Example],
    task: Task,
    *,
    weights: Mapping[str, float],
    over: Callable[[Sequence[float]], float],
) -> list[float]:
    """The weighted sum of ROUGE F-scores, by kind ("rouge1", "rougeL"), then `over` the targets."""
    scorer = _scorer(tuple(weights))

    def one(prediction: str, target: str) -> float:
        scores = scorer.score(target, prediction)
        return sum(weight * float(scores[kind].fmeasure) for kind, weight in weights.items())

    return [
        over([one(prediction, target) for target in example.targets])
        for prediction, example in zip(predictions, examples, strict=True)
    ]


# "ROUGE-1/6 + ROUGE-2/3 + ROUGE-3/2" (arXiv 2106.02017): the weights sum to one.
_WEIGHTED = {"rouge1": 1 / 6, "rouge2": 1 / 3, "rouge3": 1 / 2}

for _name, _title, _weights in (
    ("rouge1", "R-1", {"rouge1": 1.0}),
    ("rouge2", "R-2", {"rouge2": 1.0}),
    ("rougeL", "R-L", {"rougeL": 1.0}),
    ("weighted_rouge", "W-R", _WEIGHTED),
):
    register(_name, _title, partial(rouge, weights=_weights, over=max))
    register(
        f"{_name}_mean",
        f"{_title} mean",
        partial(rouge, weights=_weights, over=fmean),
        by_default=False,
    )
