"""What a sample of scores can tell: intervals, paired tests, agreement of two orders.

All resampling is seeded, so that a report is the same whenever it is made again.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from onepass.core.errors import OnepassError

Floats = npt.NDArray[np.float64]

_CELLS = 2_000_000
"""Numbers held at a time while resampling (16 MB)."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, over `count` values."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Paired:
    """The mean of a - b, its 95 % interval, and the two-sided p-value of there being none."""

    difference: float
    low: float
    high: float
    p: float


def mean_interval(values: Sequence[float | None], seed: int = 0, resamples: int = 2000) -> Interval:
    """The mean with its percentile bootstrap interval (Efron 1979); None values do not count.

    Where all values are equal the interval is that one value: a bootstrap cannot see beyond its
    sample, so "100 of 100 right" still leaves room for 3 % wrong. Raises `OnepassError` if there
    is no value.
    """
    sample = _sample([value for value in values if value is not None])
    low, high = _bootstrap(sample, seed, resamples)
    return Interval(float(sample.mean()), low, high, len(sample))


def paired_test(
    a: Sequence[float], b: Sequence[float], seed: int = 0, resamples: int = 10_000
) -> Paired:
    """Compare two methods by their scores on the same examples, in the same order.

    The interval is the bootstrap's; p is from flipping the signs of the differences at random
    (Fisher's randomisation test), counted as (k + 1) / (resamples + 1) so that it is never zero.
    Raises `OnepassError` if the two do not pair up or are empty.
    """
    if len(a) != len(b):
        raise OnepassError(f"cannot pair {len(a)} scores with {len(b)}; score the same examples")
    differences = _sample(a) - _sample(b)
    low, high = _bootstrap(differences, seed, resamples)
    observed = abs(differences.mean())
    # Equal sums may differ in the last bits by the order of addition.
    tolerance = 1e-12 * max(1.0, float(np.abs(differences).max()))
    generator = np.random.default_rng(seed)
    extreme = 0
    for rows in _blocks(resamples, len(differences)):
        signs = generator.integers(0, 2, (rows, len(differences)), dtype=np.int8) * 2.0 - 1.0
        means = np.abs(signs @ differences) / len(differences)
        extreme += int((means >= observed - tolerance).sum())
    p = (extreme + 1) / (resamples + 1)
    return Paired(float(differences.mean()), low, high, p)


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


def _bootstrap(sample: Floats, seed: int, resamples: int) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    count = len(sample)
    means = np.concatenate(
        [
            sample[generator.integers(0, count, (rows, count))].mean(axis=1)
            for rows in _blocks(resamples, count)
        ]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _blocks(rows: int, columns: int) -> list[int]:
    """`rows` cut into blocks that keep rows x columns within `_CELLS`."""
    size = max(1, _CELLS // columns)
    return [min(size, rows - start) for start in range(0, rows, size)]
