"""Low-rank algebra against dense brute force."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapter_kit import dense_sum, random_lora
from onepass.adapters.adapter import Lora
from onepass.adapters.lowrank import (
    balanced,
    compress,
    norm,
    padded,
    relative_error,
    squared_errors,
    unpadded,
    weighted_sum,
)
from onepass.core.errors import OnepassError

widths = st.integers(1, 9)
ranks = st.integers(1, 12)  # beyond the widths too: a sum of LoRAs may exceed the layer's rank
seeds = st.integers(0, 2**31)
weights = st.floats(-3, 3, allow_nan=False)


def some_lora(out: int, in_: int, rank: int, seed: int) -> Lora:
    return random_lora((out, in_), rank, torch.Generator().manual_seed(seed))


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-4)


@given(out=widths, in_=widths, parts=st.lists(st.tuples(ranks, weights), min_size=1, max_size=4))
def test_weighted_sum_is_the_dense_sum(out: int, in_: int, parts: list[tuple[int, float]]) -> None:
    loras = [some_lora(out, in_, rank, seed) for seed, (rank, _) in enumerate(parts)]
    total = weighted_sum(loras, [w for _, w in parts])
    assert total.rank == sum(rank for rank, _ in parts)
    assert close(total.delta(), dense_sum(loras, [w for _, w in parts]))


@given(out=widths, in_=widths, rank=ranks, seed=seeds)
def test_norm_is_the_dense_norm(out: int, in_: int, rank: int, seed: int) -> None:
    lora = some_lora(out, in_, rank, seed)
    assert norm(lora) == pytest.approx(float(lora.delta().double().norm()), rel=1e-4)


@given(out=widths, in_=widths, rank=ranks, kept=ranks, seed=seeds)
def test_compress_errs_by_exactly_the_singular_values_it_drops(
    out: int, in_: int, rank: int, kept: int, seed: int
) -> None:
    lora = some_lora(out, in_, rank, seed)
    small = compress(lora, kept).lora
    values = torch.linalg.svdvals(lora.delta().double())
    best = float(values[kept:].norm() / values.norm())
    assert small.rank == min(kept, rank, out, in_)
    assert relative_error(small, lora) == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("fall", [1.0, 1e-1, 1e-2, 1e-4])
def test_compress_keeps_small_singular_values_to_their_own_precision(fall: float) -> None:
    """Each is found to its own size, also where squares would lose it in the largest."""
    random = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(n, 5, generator=random, dtype=torch.float64)).Q
        for n in (40, 30)
    )
    values = torch.tensor([fall**i for i in range(5)], dtype=torch.float64)
    mixed = torch.linalg.qr(torch.randn(5, 5, generator=random, dtype=torch.float64)).Q
    lora = Lora(down=mixed @ right.T, up=left * values @ mixed.T)
    found = torch.linalg.svdvals(compress(lora, 3).lora.delta())[:3]
    assert torch.allclose(found, values[:3], rtol=1e-4, atol=0)


@given(out=widths, in_=widths, rank=ranks, seed=seeds)
def test_compress_to_the_full_rank_changes_nothing(
    out: int, in_: int, rank: int, seed: int
) -> None:
    lora = some_lora(out, in_, rank, seed)
    assert close(compress(lora, rank).lora.delta(), lora.delta())


@given(out=widths, in_=widths, rank=ranks, seed=seeds, power=st.integers(-25, 25))
def test_padding_and_balancing_keep_the_change_to_the_last_bit(
    out: int, in_: int, rank: int, seed: int, power: int
) -> None:
    lora = some_lora(out, in_, rank, seed)
    lora = Lora(lora.down * 10.0**power, lora.up)
    wide = padded(lora, rank + 3)
    assert wide.rank == rank + 3
    assert torch.equal(unpadded(wide).down, lora.down)
    assert torch.equal(unpadded(wide).up, lora.up)
    even = balanced(wide)
    for one, other in ((wide, lora), (even, lora)):
        assert not one.down[rank:].any() | one.up[:, rank:].any()
        # The product of each component, entry by entry, before they are summed up.
        ours, theirs = (x.up.T[:rank, :, None] * x.down[:rank, None] for x in (one, other))
        assert torch.equal(ours, theirs)
    ratios = even.up.norm(dim=0)[:rank] / even.down.norm(dim=1)[:rank]
    assert bool(((ratios >= 0.49) & (ratios <= 2.05)).all())


@given(out=widths, in_=widths, rank=ranks, seed=seeds, power=st.integers(-8, 0))
def test_squared_errors_are_the_dense_ones(
    out: int, in_: int, rank: int, seed: int, power: int
) -> None:
    lora, noise = some_lora(out, in_, rank, seed), some_lora(out, in_, rank, seed + 1)
    near = Lora(lora.down + 10.0**power * noise.down, lora.up + 10.0**power * noise.up)
    missed, size = squared_errors(near, lora)
    exact = lora.up.double() @ lora.down.double()
    difference = near.up.double() @ near.down.double() - exact
    assert missed == pytest.approx(float(difference.square().sum()), rel=1e-4, abs=1e-20)
    assert size == pytest.approx(float(exact.square().sum()), rel=1e-6)


def test_relative_error_sees_differences_near_the_rounding_of_float32() -> None:
    lora = some_lora(8, 9, 3, 0)
    nudged = Lora(lora.down.double(), lora.up.double() * (1 + 1e-9))
    assert relative_error(nudged, lora) == pytest.approx(1e-9, rel=1e-3)
    assert relative_error(lora, lora) == pytest.approx(0, abs=1e-14)


def test_relative_error_to_zero() -> None:
    lora = some_lora(3, 4, 2, 0)
    zero = Lora(torch.zeros(1, 4), torch.zeros(3, 1))
    assert relative_error(lora, zero) == float("inf")
    assert relative_error(zero, zero) == 0


def test_weighted_sum_widens_sixteen_bits() -> None:
    half = some_lora(3, 4, 2, 0)
    half = Lora(half.down.bfloat16(), half.up.bfloat16())
    total = weighted_sum([half], [1 / 3])
    assert total.up.dtype == torch.float32
    assert close(total.delta(), dense_sum([half], [1 / 3]))


def test_weighted_sum_is_differentiable() -> None:
    lora = some_lora(3, 4, 2, 0)
    up = lora.up.clone().requires_grad_()
    total = weighted_sum([lora, Lora(lora.down, up)], [0.5, 2.0])
    torch.autograd.backward([total.delta().sum()])
    assert up.grad is not None
    assert close(up.grad, 2 * lora.down.sum(1).expand(3, 2))


def test_sums_that_make_no_sense_are_refused() -> None:
    lora = some_lora(3, 4, 2, 0)
    with pytest.raises(OnepassError, match="1 LoRAs and 2 weights"):
        weighted_sum([lora], [1.0, 2.0])
    with pytest.raises(OnepassError, match="0 LoRAs"):
        weighted_sum([], [])
    with pytest.raises(OnepassError, match="different shapes"):
        weighted_sum([lora, some_lora(4, 4, 2, 0)], [1.0, 1.0])
    with pytest.raises(OnepassError, match="rank 0"):
        compress(lora, 0)
    with pytest.raises(OnepassError, match="not a LoRA"):
        Lora(lora.down, lora.up.T)
