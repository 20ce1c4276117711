"""Intervals cover what they should, tests find what is there and little else."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onepass.core.errors import OnepassError
from onepass.evaluate.stats import mean_interval, paired_test, spearman

values = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(values, st.integers(0, 5))
def test_an_interval_lies_within_the_values_and_is_repeatable(
    sample: list[float], seed: int
) -> None:
    interval = mean_interval(sample, seed, 200)
    tiny = 1e-12
    assert min(sample) - tiny <= interval.low <= interval.high <= max(sample) + tiny
    assert interval.mean == pytest.approx(sum(sample) / len(sample))
    assert interval.count == len(sample)
    assert interval == mean_interval(sample, seed, 200)


def test_values_that_do_not_apply_do_not_count() -> None:
    assert mean_interval([None, 1.0, None, 0.0]) == mean_interval([1.0, 0.0])


def test_the_bootstrap_agrees_with_the_normal_theory() -> None:
    sample = np.random.default_rng(2).uniform(size=400)
    half = 1.96 * sample.std() / math.sqrt(len(sample))
    interval = mean_interval(sample.tolist(), resamples=5000)
    assert interval.low == pytest.approx(sample.mean() - half, abs=0.003)
    assert interval.high == pytest.approx(sample.mean() + half, abs=0.003)


@given(values)
def test_a_method_does_not_differ_from_itself(sample: list[float]) -> None:
    paired = paired_test(sample, sample, resamples=50)
    assert (paired.difference, paired.low, paired.high, paired.p) == (0, 0, 0, 1)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_swapping_the_methods_swaps_the_sign(pairs: list[tuple[float, float]]) -> None:
    a, b = [x for x, _ in pairs], [y for _, y in pairs]
    there, back = paired_test(a, b, resamples=100), paired_test(b, a, resamples=100)
    assert there.difference == -back.difference
    assert there.p == back.p
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert 0 < there.p <= 1


def test_p_agrees_with_all_sign_flips() -> None:
    differences = np.array([0.3, 0.1, -0.05, 0.2, 0.15, 0.02, -0.01, 0.4])
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(differences))).reshape(len(differences), -1)
    exact = np.mean(abs(signs.T @ differences) >= abs(differences.sum()) - 1e-12)
    assert paired_test(differences.tolist(), [0.0] * 8).p == pytest.approx(exact)


def test_under_no_difference_p_is_evenly_spread() -> None:
    generator = np.random.default_rng(3)
    ps = [
        paired_test(generator.normal(size=30).tolist(), [0.0] * 30, resamples=200).p
        for _ in range(300)
    ]
    assert 0.02 <= np.mean(np.array(ps) <= 0.05) <= 0.09


def test_spearman_sees_order_only() -> None:
    assert spearman([1, 2, 3, 40], [0.1, 0.2, 0.3, 0.31]) == pytest.approx(1)
    assert spearman([1, 2, 3], [9, 5, 1]) == pytest.approx(-1)
    # With a tie: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    assert spearman([1, 2, 2, 4], [1, 2, 3, 4]) == pytest.approx(0.9486833)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(OnepassError, match="no scores"):
        mean_interval([None])
    with pytest.raises(OnepassError, match="cannot pair 1 scores with 2"):
        paired_test([1.0], [1.0, 2.0])
    with pytest.raises(OnepassError, match="no scores"):
        paired_test([], [])
    with pytest.raises(OnepassError, match="two or more pairs"):
        spearman([1.0], [1.0])
