"""ROUGE (Lin 2004) and the weighted ROUGE of reply suggestion (Zhang et al. 2021).

Of several targets the best counts. Words are runs of letters and digits of any script, lower case:
the tokenizer of rouge-score keeps a-z only, and so would drop "é" and score "été" as "t".
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache, partial

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from onepass.evaluate.metrics.metric import register
from onepass.tasks.example import Example
from onepass.tasks.task import Task


class Words(Tokenizer):  # type: ignore[misc]  # rouge-score has no types
    """Words of any language."""

    def tokenize(self, text: str) -> list[str]:
        # One letter may be written as one code point or two; both are the same word.
        return re.findall(r"\w+", unicodedata.normalize("NFC", text).lower())


@cache
def _scorer(kinds: tuple[str, ...]) -> RougeScorer:
    return RougeScorer(list(kinds), tokenizer=Words())


def rouge(
    predictions: Sequence[str],
    examples: Sequence[Example],
    task: Task,
    *,
    weights: Mapping[str, float],
) -> list[float]:
    """The weighted sum of ROUGE F-scores, by kind ("rouge1", "rougeL"), best over the targets."""
    scorer = _scorer(tuple(weights))

    def one(prediction: str, target: str) -> float:
        scores = scorer.score(target, prediction)
        return sum(weight * float(scores[kind].fmeasure) for kind, weight in weights.items())

    return [
        max(one(prediction, target) for target in example.targets)
        for prediction, example in zip(predictions, examples, strict=True)
    ]


for _kind, _title in (("rouge1", "R-1"), ("rouge2", "R-2"), ("rougeL", "R-L")):
    register(_kind, _title, partial(rouge, weights={_kind: 1.0}))

# "ROUGE-1/6 + ROUGE-2/3 + ROUGE-3/2" (arXiv 2106.02017): the weights sum to one.
register(
    "weighted_rouge",
    "W-R",
    partial(rouge, weights={"rouge1": 1 / 6, "rouge2": 1 / 3, "rouge3": 1 / 2}),
)
