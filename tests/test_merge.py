"""Laws of merging; PEFT itself as oracle is in test_adapters_peft.py."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_kit import dense_sum, random_adapter, small_base
from onepass.adapters.adapter import Adapter
from onepass.adapters.merge import merge_concat, merge_linear, merge_peft_linear
from onepass.core.errors import OnepassError

Merge = Callable[..., Adapter]
MERGES = [merge_linear, merge_concat, merge_peft_linear]
EXACT = [merge_linear, merge_concat]
weight_lists = st.lists(st.floats(-2, 2, allow_nan=False), min_size=1, max_size=4)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("merge", EXACT)
@given(weights=weight_lists, ranks=st.lists(st.integers(1, 5), min_size=4, max_size=4))
@settings(max_examples=30)
def test_exact_merges_are_the_dense_weighted_sum(
    merge: Merge, weights: list[float], ranks: list[int]
) -> None:
    adapters = [
        random_adapter(i, rank) for i, (_, rank) in enumerate(zip(weights, ranks, strict=False))
    ]
    merged = merge(adapters, weights)
    for module, lora in merged.modules.items():
        assert close(lora.delta(), dense_sum([a.modules[module] for a in adapters], weights))


@pytest.mark.parametrize("merge", MERGES)
def test_one_adapter_at_weight_one_is_unchanged(merge: Merge) -> None:
    adapter = random_adapter(0)
    merged = merge([adapter], [1.0])
    for module, lora in adapter.modules.items():
        assert torch.equal(merged.modules[module].delta(), lora.delta())


@pytest.mark.parametrize("merge", MERGES)
@given(weights=st.lists(st.floats(-2, 2, allow_nan=False), min_size=2, max_size=4))
@settings(max_examples=20)
def test_the_order_of_adapters_does_not_matter(merge: Merge, weights: list[float]) -> None:
    adapters = [random_adapter(i) for i in range(len(weights))]
    one, other = merge(adapters, weights), merge(adapters[::-1], weights[::-1])
    for module, lora in one.modules.items():
        assert close(lora.delta(), other.modules[module].delta())


@pytest.mark.parametrize("merge", MERGES)
def test_weights_default_to_equal_shares(merge: Merge) -> None:
    adapters = [random_adapter(i) for i in range(3)]
    merged, explicit = merge(adapters), merge(adapters, [1 / 3] * 3)
    assert merged.card["weights"] == [1 / 3] * 3
    assert merged.base == "org/small"
    for module, lora in merged.modules.items():
        assert torch.equal(lora.delta(), explicit.modules[module].delta())


def test_peft_linear_of_two_has_the_cross_terms() -> None:
    a, b = random_adapter(0), random_adapter(1)
    merged = merge_peft_linear([a, b], [0.5, 0.5])
    for module, lora in merged.modules.items():
        x, y = a.modules[module], b.modules[module]
        assert lora.rank == x.rank
        assert close(lora.delta(), 0.5 * (x.up + y.up) @ (x.down + y.down))


@pytest.mark.parametrize("merge", MERGES)
def test_merging_leaves_its_inputs_alone(merge: Merge) -> None:
    adapters = [random_adapter(0), random_adapter(1)]
    merge(adapters, [0.3, -0.7])
    for seed, adapter in enumerate(adapters):
        for module, lora in random_adapter(seed).modules.items():
            assert torch.equal(adapter.modules[module].delta(), lora.delta())


@pytest.mark.parametrize("merge", MERGES)
def test_adapters_that_do_not_belong_together_are_refused(merge: Merge) -> None:
    first = random_adapter(0, name="first")
    with pytest.raises(OnepassError, match="no adapters"):
        merge([])
    with pytest.raises(OnepassError, match="2 weights"):
        merge([first], [0.5, 0.5])
    with pytest.raises(OnepassError, match=r"'first' and 'other' are for different bases"):
        merge([first, random_adapter(1, base=small_base(name="org/else"), name="other")])
    with pytest.raises(OnepassError, match=r"'other' has model\.layers\.2.*'first' has not"):
        merge([first, random_adapter(1, base=small_base(layers=3), name="other")])
    wide = {m: (out + 1, in_) for m, (out, in_) in small_base().modules.items()}
    other = random_adapter(1, base=type(small_base())("org/small", wide), name="other")
    with pytest.raises(OnepassError, match=r"different shapes at .*q_proj: \(8, 8\) and \(9, 8\)"):
        merge([first, other])


def test_peft_linear_needs_one_rank() -> None:
    with pytest.raises(OnepassError, match=r"found \[2, 3\]; use linear"):
        merge_peft_linear([random_adapter(0, rank=2), random_adapter(1, rank=3)])
