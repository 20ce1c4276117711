"""Laws of every merge; brute force as oracle is in test_merge_oracles.py, PEFT's own elsewhere."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_kit import dense_sum, random_adapter, random_lora, small_base
from onepass.adapters.adapter import Adapter, Lora, load_adapter, save_adapter
from onepass.adapters.merging import MERGES, merge
from onepass.adapters.shape import BaseShape
from onepass.core.errors import OnepassError

EXACT = ["linear", "concat"]
ALONE_UNCHANGED = [
    name
    for name in MERGES
    if name not in ("iso-c", "iso-cts", "ties", "knots", "breadcrumbs", "ctm")
]
"""Of one adapter at weight 1: those that flatten its spectrum or trim it by default differ."""
KEEP_ALL: dict[str, dict[str, Any]] = {
    "ties": {"density": 1.0}, "knots": {"density": 1.0}, "dare": {"density": 1.0},
    "dare-ties": {"density": 1.0}, "della": {"density": 1.0}, "magnitude-prune": {"density": 1.0},
    "breadcrumbs": {"density": 1.0, "gamma": 0.0}, "ctm": {"density": 1.0},
}  # fmt: skip
weight_lists = st.lists(st.floats(-2, 2, allow_nan=False), min_size=1, max_size=4)


def close(one: torch.Tensor, other: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance)


def same(one: Adapter, other: Adapter, tolerance: float = 1e-4) -> bool:
    return one.modules.keys() == other.modules.keys() and all(
        close(lora.delta(), other.modules[module].delta(), tolerance)
        for module, lora in one.modules.items()
    )


def wide_adapters() -> list[Adapter]:
    """Two of a module that is large enough for the randomised SVD."""
    random, shape = torch.Generator().manual_seed(3), (700, 400)
    module = "model.layers.0.mlp.up_proj"
    return [Adapter(str(i), {module: random_lora(shape, 8, random)}) for i in range(2)]


@pytest.mark.parametrize("method", EXACT)
@given(weights=weight_lists, ranks=st.lists(st.integers(1, 5), min_size=4, max_size=4))
@settings(max_examples=30)
def test_exact_merges_are_the_dense_weighted_sum(
    method: str, weights: list[float], ranks: list[int]
) -> None:
    adapters = [random_adapter(i, rank) for i, (_, rank) in enumerate(zip(weights, ranks))]  # noqa: B905
    merged = merge(adapters, method, weights)
    for module, lora in merged.modules.items():
        assert close(lora.delta(), dense_sum([a.modules[module] for a in adapters], weights))


@pytest.mark.parametrize("method", list(MERGES))
def test_one_adapter_at_weight_one_is_unchanged(method: str) -> None:
    adapter = random_adapter(0)
    options = KEEP_ALL.get(method, {})
    if method in ALONE_UNCHANGED or options:
        assert same(merge([adapter], method, [1.0], **options), adapter)
    else:  # an isotropic merge keeps the directions and evens out their strength
        lora = next(iter(merge([adapter], method, [1.0]).modules.values()))
        values = torch.linalg.svdvals(lora.delta())[:3]
        assert float(values.max() - values.min()) < 1e-4


@pytest.mark.parametrize("method", [name for name in MERGES if name != "slerp"])
@given(weights=st.lists(st.floats(0.1, 2), min_size=2, max_size=4))
@settings(max_examples=10)
def test_the_order_of_adapters_does_not_matter(method: str, weights: list[float]) -> None:
    adapters = [random_adapter(i) for i in range(len(weights))]
    one = merge(adapters, method, weights)
    other = merge(adapters[::-1], method, weights[::-1])
    assert same(one, other, 1e-3)


def test_slerp_there_is_slerp_back() -> None:
    a, b = random_adapter(0), random_adapter(1)
    assert same(merge([a, b], "slerp", [0.3, 0.7]), merge([b, a], "slerp", [0.7, 0.3]))
    assert same(merge([a, b], "slerp", [1.0, 0.0]), a)


@pytest.mark.parametrize(
    "method",
    ["linear", "concat", "peft-linear", "magnitude-prune", "dare", "tsv", "iso-c", "iso-cts"],
)
def test_weight_zero_is_absence(method: str) -> None:
    a, b, c = (random_adapter(i) for i in range(3))
    assert same(merge([a, b, c], method, [0.7, 0.3, 0.0]), merge([a, b], method, [0.7, 0.3]))


@pytest.mark.parametrize("method", ["dare", "magnitude-prune", "breadcrumbs"])
def test_keeping_everything_is_the_linear_merge(method: str) -> None:
    adapters = [random_adapter(i) for i in range(3)]
    merged = merge(adapters, method, rank=8, **KEEP_ALL[method])
    assert same(merged, merge(adapters), 1e-4)


@pytest.mark.parametrize(
    "method", [name for name in MERGES if name not in ("slerp", "multi-slerp")]
)
def test_weights_scale_the_result(method: str) -> None:
    adapters = [random_adapter(i) for i in range(2)]
    one = merge(adapters, method, [0.5, 0.5])
    two = merge(adapters, method, [1.0, 1.0])
    for module, lora in one.modules.items():
        assert close(2 * lora.delta(), two.modules[module].delta(), 1e-3)


@pytest.mark.parametrize("method", list(MERGES))
def test_weights_have_defaults_and_the_card_has_everything(method: str) -> None:
    adapters = [random_adapter(i) for i in range(2)]
    merged = merge(adapters, method)
    share = 0.5 if MERGES.get(method).shares else 1.0
    assert same(merged, merge(adapters, method, [share, share]))
    assert merged.base == "org/small"
    assert merged.card["method"] == method
    assert merged.card["adapters"] == ["adapter-0", "adapter-1"]
    assert merged.card["weights"] == [share, share]
    assert merged.card["options"] == MERGES.get(method).options
    assert 0 <= merged.card["truncation_error"] < 1


@pytest.mark.parametrize("method", list(MERGES))
def test_merging_leaves_its_inputs_alone_and_repeats_itself(method: str) -> None:
    adapters = [random_adapter(0), random_adapter(1)]
    first = merge(adapters, method, [0.3, 0.7], seed=4)
    for seed, adapter in enumerate(adapters):
        assert same(adapter, random_adapter(seed), 0)
    again = merge(adapters, method, [0.3, 0.7], seed=4)
    for module, lora in first.modules.items():
        assert torch.equal(lora.down, again.modules[module].down)
        assert torch.equal(lora.up, again.modules[module].up)


@pytest.mark.parametrize("method", ["dare", "dare-ties", "della"])
def test_what_is_dropped_depends_on_the_seed(method: str) -> None:
    adapters = [random_adapter(0), random_adapter(1)]
    assert not same(merge(adapters, method, seed=0), merge(adapters, method, seed=1))


@pytest.mark.parametrize("method", [name for name in MERGES if name != "peft-linear"])
def test_adapters_may_differ_in_rank_dtype_and_modules(method: str, tmp_path: Any) -> None:
    whole, other = random_adapter(0, 2), random_adapter(1, 4)
    kept = {m: Lora(x.down.bfloat16(), x.up.bfloat16()) for m, x in other.modules.items()}
    part = Adapter("part", {m: x for m, x in kept.items() if "mlp" not in m}, "org/small")
    merged = merge([whole, part], method)
    assert merged.modules.keys() == whole.modules.keys()
    save_adapter(merged, tmp_path / "merged")
    # Reading leaves out components that are zero, and a shorter product may round otherwise.
    assert same(load_adapter(tmp_path / "merged"), merged, 1e-6)
    if method in EXACT:
        for module in whole.modules:
            present = [a.modules[module] for a in (whole, part) if module in a.modules]
            expected = dense_sum(present, [0.5] * len(present))
            assert close(merged.modules[module].delta(), expected)


@pytest.mark.parametrize("method", [name for name in MERGES if name != "multi-slerp"])
def test_all_zero_adapters_give_zero(method: str) -> None:
    zero = random_adapter(0)
    zero = Adapter("z", {m: Lora(x.down * 0, x.up * 0) for m, x in zero.modules.items()})
    merged = merge([zero, zero], method)
    assert all(float(lora.delta().abs().max()) == 0 for lora in merged.modules.values())
    assert merged.card["truncation_error"] == 0


@pytest.mark.parametrize("method", ["tsv", "iso-cts", "ties", "model-stock"])
def test_the_order_does_not_matter_when_ranks_and_modules_differ(method: str) -> None:
    a, b, c = random_adapter(0, 1), random_adapter(1, 5), random_adapter(2, 2)
    c = Adapter("c", {m: x for m, x in c.modules.items() if "q_proj" in m}, c.base)
    one, other = merge([a, b, c], method), merge([c, b, a], method)
    assert same(one, Adapter("", {m: other.modules[m] for m in one.modules}), 1e-3)


@pytest.mark.parametrize("method", [*EXACT, "tsv", "iso-cts", "dare", "ties", "model-stock"])
def test_a_module_of_one_adapter_is_merged_as_if_that_were_alone(method: str) -> None:
    """Weighted with 1, as methods that average by 1/N have it by choice, not by kind."""
    a, b = random_adapter(0), random_adapter(1)
    part = Adapter("part", {m: x for m, x in b.modules.items() if "mlp" not in m}, b.base)
    together, alone = merge([a, part], method, [1.0, 1.0]), merge([a], method, [1.0])
    for module, lora in alone.modules.items():
        if "mlp" in module:
            assert close(lora.delta(), together.modules[module].delta())


def test_the_same_adapter_twice_is_one_direction_once() -> None:
    a = random_adapter(0)
    merged = merge([a, a], "tsv", [0.5, 0.5])
    for module, lora in a.modules.items():
        cosine = torch.cosine_similarity(
            lora.delta().flatten(), merged.modules[module].delta().flatten(), 0
        )
        assert float(cosine) > 0.999


def test_adapters_of_one_name_lose_different_entries() -> None:
    a = random_adapter(0, name="adapter")
    both = merge([a, a], "dare", [0.5, 0.5], rank=8)
    once = merge([a], "dare", [1.0], rank=8)
    assert not same(both, once, 1e-3)


@pytest.mark.parametrize("weights", [[0.3, -0.3], [1 / 3, -1 / 3], [1.0, -1.0]])
@pytest.mark.parametrize("pico", [False, True])
def test_what_cancels_out_stays_nothing(weights: list[float], pico: bool) -> None:
    a = random_adapter(0)
    merged = merge([a, a], "linear", weights, rank=2, pico=pico)
    assert 0 <= merged.card["truncation_error"] <= 1
    size = max(float(lora.delta().norm()) for lora in a.modules.values())
    assert all(float(lora.delta().norm()) < 1e-4 * size for lora in merged.modules.values())


def test_opposite_adapters_are_not_blown_up_by_model_stock() -> None:
    a, b = random_adapter(0), random_adapter(1)
    modules = {m: Lora(x.down, -x.up) for m, x in a.modules.items()}
    nearly = merge([Adapter("-", modules, a.base), b], "linear", [1.0, 0.1])
    merged = merge([a, nearly], "model-stock")
    for module, lora in merged.modules.items():
        mean = dense_sum([a.modules[module], nearly.modules[module]], [0.5, 0.5])
        assert float(lora.delta().norm()) <= float(mean.norm()) + 1e-5


def test_broken_adapters_are_named() -> None:
    a = random_adapter(0, name="fine")
    huge = Adapter("huge", {m: Lora(x.down * 1e15, x.up * 1e15) for m, x in a.modules.items()})
    for method in MERGES:
        with pytest.raises(OnepassError, match=r"adapter 'huge', model\.layers\.0"):
            merge([a, huge], method)


def test_weights_by_layer_and_projection() -> None:
    a, b = random_adapter(0), random_adapter(1)
    merged = merge([a, b], weights=[{"q_proj": 2.0, "layers.1": 3.0, "*": 0.25}, 0.5])
    wanted = {"layers.0.self_attn.q_proj": 2.0, "layers.0.mlp.down_proj": 0.25}
    wanted |= {"layers.1.mlp.down_proj": 3.0, "layers.1.self_attn.q_proj": 3.0}
    for path, weight in wanted.items():
        module = f"model.{path}"
        expected = dense_sum([a.modules[module], b.modules[module]], [weight, 0.5])
        assert close(merged.modules[module].delta(), expected)
    assert merged.card["weights"][0] == {"q_proj": 2.0, "layers.1": 3.0, "*": 0.25}


@given(rank=st.integers(1, 8))
def test_a_forced_rank_errs_by_what_the_card_says(rank: int) -> None:
    adapters = [random_adapter(i, 4) for i in range(2)]
    exact, forced = merge(adapters), merge(adapters, rank=rank)
    missed = sum(
        float((lora.delta() - forced.modules[m].delta()).double().norm()) ** 2
        for m, lora in exact.modules.items()
    )
    size = sum(float(lora.delta().double().norm()) ** 2 for lora in exact.modules.values())
    assert forced.card["truncation_error"] == pytest.approx(math.sqrt(missed / size), abs=1e-4)
    assert all(lora.rank <= rank for lora in forced.modules.values())


@pytest.mark.parametrize("method", ["ties", "dare-ties", "della", "knots", "tsv"])
def test_the_number_of_threads_changes_nothing_but_rounding(method: str) -> None:
    adapters = wide_adapters()
    one = merge(adapters, method, seed=1)
    torch.set_num_threads(3)
    try:
        three = merge(adapters, method, seed=1)
    finally:
        torch.set_num_threads(1)
    for module, lora in one.modules.items():
        difference = (lora.delta() - three.modules[module].delta()).norm() / lora.delta().norm()
        assert float(difference) < 1e-3


def test_a_large_dense_result_is_truncated_nearly_as_well_as_can_be() -> None:
    """Large enough for the randomised SVD; the oracle is the full one."""
    adapters = wide_adapters()
    merged = merge(adapters, "dare-ties", rank=16)
    exact = merge(adapters, "dare-ties", rank=400)
    (module,) = merged.modules
    values = torch.linalg.svdvals(exact.modules[module].delta().double())
    best = float((values[16:].square().sum() / values.square().sum()).sqrt())
    assert best <= merged.card["truncation_error"] <= best * 1.01


@pytest.mark.parametrize("method", list(MERGES))
def test_adapters_that_do_not_belong_together_are_refused(method: str) -> None:
    first = random_adapter(0, name="first")
    with pytest.raises(OnepassError, match="no adapters"):
        merge([], method)
    with pytest.raises(OnepassError, match="give one weight per adapter"):
        merge([first], method, [0.5, 0.5])
    elsewhere = random_adapter(1, base=small_base(name="org/else"), name="other")
    with pytest.raises(OnepassError, match=r"'first' and 'other' are for different bases"):
        merge([first, elsewhere], method)
    assert merge([first, elsewhere], method, force=True).modules
    wide = {m: (out + 1, in_) for m, (out, in_) in small_base().modules.items()}
    other = random_adapter(1, base=BaseShape("org/small", wide), name="other")
    with pytest.raises(OnepassError, match=r"different shapes at .*q_proj: \(8, 8\) and \(9, 8\)"):
        merge([first, other], method)


@pytest.mark.parametrize(
    ("method", "options", "complaint"),
    [
        ("tie", {}, "unknown merge 'tie': did you mean 'ties'"),
        ("ties", {"desity": 0.2}, "did you mean 'density'"),
        ("linear", {"density": 0.2}, "merge linear has no options"),
        ("ties", {"density": 0}, "density is 0; it must be a number from 1e-06 to 1"),
        ("dare", {"density": 1.2}, "density is 1.2"),
        ("dare", {"density": "half"}, "density is 'half'"),
        ("ties", {"variant": "papers"}, "unknown variant 'papers': did you mean 'paper'"),
        ("dare", {"space": "cor"}, "unknown space 'cor': did you mean 'core'"),
        ("della", {"density": 0.1, "epsilon": 0.2}, "must lie between 0 and 1"),
        ("della", {"epsilon": "x"}, "epsilon is 'x'; it must be a number from 0 to 1"),
        ("della", {"epsilon": float("nan")}, "epsilon is nan"),
        ("breadcrumbs", {"gamma": None}, "gamma is None"),
        ("breadcrumbs", {"density": 0.9, "gamma": 0.2}, "together they must be at most 1"),
        ("linear", {"rank": 0}, "rank is 0; it must be a whole number of at least 1"),
        ("linear", {"rank": 9}, "rank 9 is not possible: it can be up to 8"),
        ("linear", {"rank": "8"}, "rank is '8'"),
        ("linear", {"seed": 2**70}, "seed is"),
        ("linear", {"pico": "false"}, "pico is 'false'; it must be true or false"),
        ("linear", {"weights": 0.5}, "give one weight per adapter"),
        ("linear", {"weights": [{"qproj": 1.0}, 1.0]}, "unknown module to weigh 'qproj'"),
        ("ties", {"weights": [1e300, 1.0]}, "too large for float32"),
        ("ties", {"variant": "mergekit", "weights": [1.0, -1.0]}, "none may be negative"),
        ("knots", {"variant": "mergekit", "weights": [1.0, -1.0]}, "none may be negative"),
        ("ctm", {"beta": 2}, "beta is 2; it must be a number from 0 to 1"),
        ("ctm", {"dimensions": 0}, "dimensions is 0; it must be a whole number"),
        ("ctm", {"rule": "tie"}, "unknown rule 'tie': did you mean 'ties'"),
        ("slerp", {"weights": [1.0, -1.0]}, "sum to 0"),
        ("linear", {"weights": [float("nan"), 1.0]}, "not a finite number"),
        ("linear", {"weights": [{"q_proj": "big"}, 1.0]}, "not a finite number"),
    ],
)
def test_what_cannot_be_done_is_said(method: str, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(OnepassError, match=complaint):
        merge([random_adapter(0), random_adapter(1)], method, **options)


def test_methods_that_cannot_take_these_adapters_say_so() -> None:
    two, three = random_adapter(0, rank=2), random_adapter(1, rank=3)
    with pytest.raises(OnepassError, match=r"found \[2, 3\]; use linear"):
        merge([two, three], "peft-linear")
    with pytest.raises(OnepassError, match="use multi-slerp"):
        merge([two, two, two], "slerp")
    against = Adapter("-", {m: Lora(-x.down, x.up) for m, x in two.modules.items()})
    with pytest.raises(OnepassError, match="cancel out"):
        merge([two, against], "multi-slerp")
