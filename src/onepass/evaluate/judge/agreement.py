"""How far two raters agree on the same things."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from onepass.core.errors import OnepassError


@dataclass(frozen=True)
class Agreement:
    """The confusion table of two raters who say yes or no: first rater's word, then the second's.

    Taking the second as the truth, `yes_no` are outputs that the first lets pass wrongly.
    """

    yes_yes: int
    yes_no: int
    no_yes: int
    no_no: int

    @property
    def count(self) -> int:
        return self.yes_yes + self.yes_no + self.no_yes + self.no_no

    @property
    def observed(self) -> float:
        """The share of cases in which both say the same."""
        return (self.yes_yes + self.no_no) / self.count

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa (1960): how far agreement is above that of chance, 1 being full.

        Chance is that of two raters who say yes as often as these two, but independently. None
        where it is certain to agree: one word only was ever said.
        """
        first = (self.yes_yes + self.yes_no) / self.count
        second = (self.yes_yes + self.no_yes) / self.count
        chance = first * second + (1 - first) * (1 - second)
        return None if chance == 1 else (self.observed - chance) / (1 - chance)


def agreement(first: Sequence[bool], second: Sequence[bool]) -> Agreement:
    """Count what two raters say of the same cases, in the same order."""
    if len(first) != len(second) or not first:
        raise OnepassError(
            f"cannot compare {len(first)} verdicts with {len(second)}; give both raters' of the "
            "same cases, one or more"
        )
    seen = Counter(zip(first, second, strict=True))
    return Agreement(seen[True, True], seen[True, False], seen[False, True], seen[False, False])


def auc(said: Sequence[bool], scores: Sequence[float]) -> float | None:
    """The share of pairs, one with a yes and one with a no, in which the yes has the higher score.

    Equal scores count half (the area under the ROC curve, or Mann and Whitney's U). None if there
    is no such pair.
    """
    pairs = list(zip(said, scores, strict=True))
    yes, no = ([score for word, score in pairs if word == wanted] for wanted in (True, False))
    if not yes or not no:
        return None
    return float(stats.mannwhitneyu(yes, no).statistic) / (len(yes) * len(no))
