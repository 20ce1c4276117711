"""Intervals and tests for scores: bootstrap, paired sign-flip test, rank correlation (all scipy's).

All resampling is seeded: the same scores always give the same report.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats

from onepass.core.errors import OnepassError

Floats = npt.NDArray[np.float64]

_HELD = 2_000_000
"""Numbers held in memory at a time while resampling (16 MB)."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, over `count` values."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Paired:
    """The mean of a - b, its 95 % interval, and the two-sided p-value of "no difference"."""

    difference: float
    low: float
    high: float
    p: float


def mean_interval(values: Sequence[float | None], seed: int = 0, resamples: int = 2000) -> Interval:
    """The mean with its 95 % percentile bootstrap interval (Efron 1979); None values do not count.

    If all values are equal, the interval is that value alone: a bootstrap cannot see beyond its
    sample, so "100 of 100 right" still leaves room for 3 % wrong. Raises `OnepassError` if there
    is no value.
    """
    sample = _sample([value for value in values if value is not None])
    low, high = _bootstrap(tuple(sample.tolist()), seed, resamples)
    return Interval(float(sample.mean()), low, high, len(sample))


def paired_test(
    a: Sequence[float], b: Sequence[float], seed: int = 0, resamples: int = 10_000
) -> Paired:
    """Compare two methods by their scores on the same examples, in the same order.

    The interval is the bootstrap's; p comes from flipping the signs of the differences (Fisher's
    randomisation test): all flips if there are at most `resamples`, else that many at random.
    Raises `OnepassError` if the two lists differ in length or are empty.
    """
    if len(a) != len(b):
        raise OnepassError(f"cannot pair {len(a)} scores with {len(b)}; score the same examples")
    differences = _sample(a) - _sample(b)
    low, high = _bootstrap(tuple(differences.tolist()), seed, resamples)
    p = 1.0
    if len(differences) > 1:
        p = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", vectorized=True,
            n_resamples=resamples, batch=_batch(differences), rng=np.random.default_rng(seed),
        ).pvalue  # fmt: skip
    return Paired(float(differences.mean()), low, high, float(p))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, in [-1, 1]; nan where either side is all one value.

    Raises `OnepassError` if the two do not pair up or have fewer than two values.
    """
    if len(a) != len(b) or len(a) < 2:
        raise OnepassError(
            f"cannot correlate {len(a)} values with {len(b)}; give two or more pairs"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return float(stats.spearmanr(a, b).statistic)


def _sample(values: Sequence[float]) -> Floats:
    if not values:
        raise OnepassError("there are no scores to average; score at least one example")
    return np.asarray(values, dtype=np.float64)


@lru_cache(maxsize=4096)  # the tables of a report ask for the same intervals again and again
def _bootstrap(values: tuple[float, ...], seed: int, resamples: int) -> tuple[float, float]:
    sample = np.asarray(values)
    if sample.min() == sample.max():
        return float(sample[0]), float(sample[0])
    low, high = stats.bootstrap(
        (sample,), np.mean, method="percentile", vectorized=True,
        n_resamples=resamples, batch=_batch(sample), rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(low), float(high)


def _batch(sample: Floats) -> int:
    return max(1, _HELD // len(sample))
