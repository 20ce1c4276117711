"""Calibrations of the adapters' own factors: core, lc-gain and cat, against dense matrices."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapter_kit import random_adapter, small_base
from conftest import MakeAdapter
from device_kit import check_parity, engine_or_skip, random_parts
from onepass.adapters.adapter import Adapter, Lora, load_adapter
from onepass.adapters.calibration import FORMS, Calibration, Kind
from onepass.adapters.composition import (
    Composition,
    Pass,
    Weighted,
    cost,
    load_composition,
    pass_bias,
    pass_delta,
    save_composition,
)
from onepass.adapters.cost import cat_parameters, core_parameters, gain_parameters
from onepass.adapters.factors import factors_by_module
from onepass.adapters.lora import projection
from onepass.adapters.passes import calibration_delta
from onepass.adapters.shape import BaseShape
from onepass.core.errors import OnepassError
from onepass.export import export_merged, export_peft
from onepass.model.attach import attached, folded
from onepass.model.load import Base, load_base
from onepass.model.training.calibration import calibrated, initial_parameters, train_calibration
from onepass.model.training.options import TrainOptions
from onepass.tasks.book import parse_task
from onepass.tasks.example import Example

TASK = parse_task("summarize+translate:es")
KINDS: list[Kind] = ["core", "lc-gain", "cat"]
WEIGHTS = (0.5, 0.3)


def calibration_of(
    kind: Kind, adapters: Sequence[Adapter], base: BaseShape, seed: int | None = 0
) -> Calibration:
    """A random calibration that fits adapters of one rank each; of zeros if the seed is None."""
    random = torch.Generator().manual_seed(seed or 0)
    ranks = [next(iter(adapter.modules.values())).rank for adapter in adapters]
    layers = len({module.split(".")[2] for module in base.modules})
    tensors: dict[str, dict[str, Tensor]] = {}
    for type_, (out, _) in base.projections().items():
        kinds: dict[str, dict[str, tuple[int, ...]]] = {
            "core": {"core": (sum(ranks), sum(ranks))},
            "lc-gain": {"gain": (out,), "bias": (out,)},
            "cat": {"weights": (layers, len(adapters))},
        }
        shapes = kinds[kind]
        tensors[type_] = {
            name: torch.zeros(shape) if seed is None else torch.randn(shape, generator=random) * 0.3
            for name, shape in shapes.items()
        }
    return Calibration(kind, FORMS[kind][0], tensors)


def pass_of(adapters: Sequence[Adapter], calibration: Calibration | None = None) -> Pass:
    weighted = tuple(Weighted(a, w) for a, w in zip(adapters, WEIGHTS, strict=True))
    return Pass(TASK, weighted, calibration)


def small_parts(ranks: tuple[int, int] = (3, 2)) -> list[Adapter]:
    return [random_adapter(number, rank=rank) for number, rank in enumerate(ranks)]


def dense(pass_: Pass, module: str) -> Tensor:
    """The oracle: ΔW in float64, a sum over components, one outer product at a time."""
    assert pass_.calibration is not None
    parts = {n: t.double() for n, t in pass_.calibration.tensors[projection(module)].items()}
    layer, start = int(module.split(".")[2]), 0
    reads, writes, total = [], [], torch.zeros((), dtype=torch.float64)
    for number, weighted in enumerate(pass_.adapters):
        whole = next(iter(weighted.adapter.modules.values())).rank
        lora = weighted.adapter.modules.get(module)
        for j in range(lora.rank if lora else 0):
            assert lora is not None
            a, b = lora.down[j].double(), lora.up[:, j].double()
            weight = torch.tensor(weighted.weight, dtype=torch.float64)
            if "weights" in parts:
                weight = weight + parts["weights"][layer, number]
            total = total + weight * torch.outer(b, a)
            even = (a.norm() / b.norm()).sqrt()
            reads.append((start + j, a / even))
            writes.append((start + j, b * even))
        start += whole
    if "gain" in parts:
        total = total * (1 + parts["gain"])[:, None]
    if "core" in parts:
        for i, b in writes:
            for j, a in reads:
                total = total + parts["core"][i, j] * torch.outer(b, a)
    return total


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------ what a pass computes


@pytest.mark.parametrize("kind", KINDS)
@given(ranks=st.tuples(st.integers(1, 4), st.integers(1, 4)), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_pass_is_the_dense_sum_with_the_rank_of_its_adapters(
    kind: Kind, ranks: tuple[int, int], seed: int
) -> None:
    parts = small_parts(ranks)
    pass_ = pass_of(parts, calibration_of(kind, parts, small_base(), seed))
    merge, added, found = pass_delta(pass_of(parts)), calibration_delta(pass_), pass_delta(pass_)
    biases = pass_bias(pass_)
    for module in small_base().modules:
        close(found[module].delta(), dense(pass_, module))
        close(found[module].delta(), merge[module].delta() + added[module].delta())
        assert found[module].rank == added[module].rank == sum(ranks)
    assert biases.keys() == (small_base().modules.keys() if kind == "lc-gain" else set())


@pytest.mark.parametrize("kind", KINDS)
def test_without_effect_it_is_the_merge(kind: Kind) -> None:
    parts = small_parts()
    pass_ = pass_of(parts, calibration_of(kind, parts, small_base(), None))
    merge = pass_delta(pass_of(parts))
    for module, lora in pass_delta(pass_).items():
        close(lora.delta(), merge[module].delta())
    assert not any(bias.any() for bias in pass_bias(pass_).values())


def test_a_diagonal_core_weighs_components_and_so_can_do_what_cat_does() -> None:
    parts, more = small_parts(), (0.4, -0.2)
    diagonal = torch.diag(torch.tensor([more[0]] * 3 + [more[1]] * 2))
    types = small_base().projections()
    core = Calibration("core", "core", {type_: {"core": diagonal} for type_ in types})
    rows = torch.tensor([more, more])
    cat = Calibration("cat", "weights", {type_: {"weights": rows} for type_ in types})
    weighted = tuple(Weighted(a, w + m) for a, w, m in zip(parts, WEIGHTS, more, strict=True))
    expected = pass_delta(Pass(TASK, weighted))
    for calibration in (core, cat):
        for module, lora in pass_delta(pass_of(parts, calibration)).items():
            close(lora.delta(), expected[module].delta())


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_lacks_a_module_has_no_part_in_it(kind: Kind) -> None:
    one, two = small_parts()
    without = [module for module in two.modules if not module.startswith("model.layers.0.mlp")]
    parts = [one, replace(two, modules={module: two.modules[module] for module in without})]
    pass_ = pass_of(parts, calibration_of(kind, [one, two], small_base()))
    Composition(small_base(), TASK, (pass_,), kind)
    for module, lora in pass_delta(pass_).items():
        close(lora.delta(), dense(pass_, module))
        assert lora.rank == (5 if module in without else 3)


def test_a_projection_type_without_a_calibration_keeps_the_merge() -> None:
    parts = small_parts()
    calibration = calibration_of("core", parts, small_base())
    del calibration.tensors["q_proj"]
    found, merge = pass_delta(pass_of(parts, calibration)), pass_delta(pass_of(parts))
    for module, lora in found.items():
        same = torch.allclose(lora.delta(), merge[module].delta(), atol=1e-5)
        assert same == module.endswith("q_proj")


@pytest.mark.parametrize("kind", KINDS)
def test_it_does_not_depend_on_how_long_an_adapters_factors_are(kind: Kind) -> None:
    """(B s) (A / s) is the same LoRA, and other tools write it so."""
    parts = small_parts()
    longer = [
        replace(
            adapter,
            modules={
                module: Lora(
                    lora.down / torch.arange(1.0, lora.rank + 1)[:, None],
                    lora.up * torch.arange(1.0, lora.rank + 1),
                )
                for module, lora in adapter.modules.items()
            },
        )
        for adapter in parts
    ]
    calibration = calibration_of(kind, parts, small_base())
    expected = pass_delta(pass_of(parts, calibration))
    for module, lora in pass_delta(pass_of(longer, calibration)).items():
        close(lora.delta(), expected[module].delta())


def test_factors_have_equal_norms_and_zeros_stay() -> None:
    (adapter,) = small_parts()[:1]
    module = "model.layers.0.self_attn.q_proj"
    lora = adapter.modules[module]
    lora.up[:, 1] = 0
    factors = factors_by_module([adapter], [1.0], {module: "q_proj"})[module]
    close(factors.down.norm(dim=1)[[0, 2]], factors.up.norm(dim=0)[[0, 2]])
    assert torch.equal(factors.down[1], lora.down[1])
    close(factors.up @ factors.down, lora.delta())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learned_can_be_differentiated(kind: Kind) -> None:
    """By finite differences, in float64."""
    parts = small_parts((2, 1))
    calibration = calibration_of(kind, parts, small_base())
    module = "model.layers.1.self_attn.v_proj"
    names = list(calibration.tensors["v_proj"])

    def delta(*learned: Tensor) -> tuple[Tensor, ...]:
        tensors = {**calibration.tensors, "v_proj": dict(zip(names, learned, strict=True))}
        pass_ = pass_of(wide, Calibration(kind, calibration.form, tensors))
        return (pass_delta(pass_)[module].delta(), *pass_bias(pass_).values())

    wide = [
        replace(a, modules={m: Lora(x.down.double(), x.up.double()) for m, x in a.modules.items()})
        for a in parts
    ]
    inputs = [calibration.tensors["v_proj"][name].double().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(delta, inputs)


# ------------------------------------------------------------------ on disk, cost, refusals


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_saved_and_loaded_it_computes_the_same(
    kind: Kind, dtype: torch.dtype | None, tmp_path: Path
) -> None:
    parts = small_parts()
    calibration = calibration_of(kind, parts, small_base())
    made = Composition(small_base(), TASK, (pass_of(parts, calibration),), kind)
    save_composition(made, tmp_path / "c", dtype)
    loaded = load_composition(tmp_path / "c")
    (before,), (after,) = made.passes, loaded.passes
    assert after.calibration is not None
    assert (after.calibration.kind, after.calibration.form) == (kind, FORMS[kind][0])
    for type_, named in calibration.tensors.items():
        for name, tensor in named.items():
            assert torch.equal(after.calibration.tensors[type_][name], tensor.to(dtype or tensor))
    expected = pass_delta(before)
    for module, lora in pass_delta(after).items():
        near = 1e-5 if dtype is None else 2e-2
        torch.testing.assert_close(lora.delta(), expected[module].delta(), rtol=near, atol=near)
    files = sum(file.stat().st_size for file in (tmp_path / "c").glob("calibration-*"))
    assert (cost(loaded).extra_parameters, cost(loaded).extra_bytes) == (
        calibration.parameter_count,
        files,
    )


def test_counts_are_those_of_the_things_counted() -> None:
    base, parts = small_base(), small_parts()
    counts = (core_parameters(base, [3, 2]), gain_parameters(base), cat_parameters(base, 2))
    assert counts == tuple(calibration_of(k, parts, base).parameter_count for k in KINDS)
    # At the shapes of Llama-3.2-1B, with two adapters of rank 32, in 16 bits: 57 kB.
    types = {f"layers.{i}.{t}_proj": (2048, 2048) for i in range(16) for t in "qkvoguds"[:7]}
    assert 2 * core_parameters(BaseShape("1b", types), [32, 32]) == 57_344


def with_rank(adapter: Adapter, module: str, rank: int) -> Adapter:
    lora = adapter.modules[module]
    return replace(
        adapter, modules={**adapter.modules, module: Lora(lora.down[:rank], lora.up[:, :rank])}
    )


def refused(message: str, pass_: Pass) -> None:
    with pytest.raises(OnepassError, match=message):
        Composition(small_base(), TASK, (pass_,), "x")


def test_a_calibration_for_other_adapters_is_refused() -> None:
    parts, base = small_parts(), small_base()
    core, cat = (calibration_of(kind, parts, base) for kind in ("core", "cat"))
    gain = calibration_of("lc-gain", parts, BaseShape("x", {"layers.0.q_proj": (9, 8)}))
    module = "model.layers.1.self_attn.q_proj"
    uneven = [parts[0], with_rank(parts[1], module, 1)]
    for calibration in (core, cat, calibration_of("lc-gain", parts, base)):
        refused("acts on the adapters of its pass, which has none", Pass(TASK, (), calibration))
    refused(r"core \(5, 5\) was made for other.* of rank 4, 2, it would be \(6, 6\)",
            pass_of(small_parts((4, 2)), core))  # fmt: skip
    refused(r"'adapter-1' has rank 2 in some q_proj and 1 in .*layers.1.*lc\+\+",
            pass_of(uneven, core))  # fmt: skip
    one = Pass(TASK, (Weighted(parts[0]),), cat)
    refused(r"weights \(2, 2\) was made for other adapters.*\(2, 1\)", one)
    refused(r"of q_proj: .*gain.*does not fit base", pass_of(parts, gain))
    Composition(base, TASK, (pass_of(uneven, cat),), "cat")  # which needs no one rank


@pytest.mark.parametrize(
    ("kind", "parts", "message"),
    [
        ("core", {"core": (3, 2)}, r"core \(3, 2\) should be \(R, R\)"),
        ("core", {"up": (3, 3)}, r"core has \['core'\], found \['up'\]"),
        ("lc-gain", {"gain": (3,), "bias": (2,)}, r"should be \(out,\) and \(out,\)"),
        ("cat", {"weights": (3,)}, r"weights \(3,\) should be \(L, N\)"),
    ],
)
def test_what_has_other_shapes_is_no_calibration(
    kind: Any, parts: dict[str, tuple[int, ...]], message: str
) -> None:
    tensors = {"q_proj": {name: torch.zeros(shape) for name, shape in parts.items()}}
    with pytest.raises(OnepassError, match=message):
        Calibration(kind, FORMS[kind][0], tensors)


# ------------------------------------------------------------------ on a model


@pytest.fixture
def parts(make_adapter: MakeAdapter) -> list[Adapter]:
    return [make_adapter("summarize", 4, 0, 0.3), make_adapter("translate:es", 2, 1, 0.3)]


IDS = torch.arange(7, 47).view(2, 20)


@torch.no_grad()
def logits(base: Base) -> Tensor:
    found: Tensor = base.model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_folded_attached_and_in_training_it_is_the_dense_sum(
    kind: Kind, base: Base, parts: list[Adapter]
) -> None:
    calibration = calibration_of(kind, parts, base.shape)
    pass_, path = pass_of(parts, calibration), "model.layers.1.mlp.up_proj"
    layer = base.model.get_submodule(path)
    with folded(base, pass_of(parts)):
        merge = logits(base)
    with folded(base, pass_):
        found = logits(base)
        weight = layer.weight.data.double()
    expected = layer.weight.data.double() + dense(pass_, path)
    torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-5)
    with attached(base, pass_):
        torch.testing.assert_close(logits(base), found, atol=1e-3, rtol=0)
    trained = initial_parameters(base, [pass_of(parts)], kind, calibration.form, 4, 0)
    for type_, named in calibration.tensors.items():
        for name, tensor in named.items():
            trained[type_][name].data.copy_(tensor)
    with calibrated(base, pass_of(parts), calibration.form, trained):
        torch.testing.assert_close(logits(base), found, atol=1e-3, rtol=0)
    assert (found - merge).abs().max() > 0.1


def loss_on(base: Base) -> Tensor:
    """Of some next tokens, in the dtype of the model."""
    found: Tensor = base.model(input_ids=IDS).logits[:, :-1].log_softmax(-1)
    return -found.gather(-1, IDS[:, 1:, None]).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_training_has_the_gradient_of_its_loss(
    kind: Kind, base: Base, parts: list[Adapter]
) -> None:
    base.model.double()
    calibration, merge = calibration_of(kind, parts, base.shape), pass_of(parts)
    trained = initial_parameters(base, [merge], kind, calibration.form, 4, 0)
    for type_, named in trained.items():
        for name in named:
            named[name] = torch.nn.Parameter(calibration.tensors[type_][name].double())
    with calibrated(base, merge, calibration.form, trained):
        loss_on(base).backward()  # type: ignore[no-untyped-call]
        step = 1e-3  # norms are computed in float32, so the loss has its digits
        for named in trained.values():
            for parameter in named.values():
                assert parameter.grad is not None
                place = int(parameter.grad.abs().argmax())
                values, losses = parameter.data.view(-1), []
                for shift in (step, -step):
                    values[place] += shift
                    losses.append(float(loss_on(base).detach()))
                    values[place] -= shift
                slope = (losses[0] - losses[1]) / (2 * step)
                assert float(parameter.grad.view(-1)[place]) == pytest.approx(
                    slope, rel=0.02, abs=0.05
                )


def test_a_core_for_several_merges_needs_the_same_ranks(
    base: Base, parts: list[Adapter], examples: list[Example]
) -> None:
    other = replace(pass_of(parts[::-1]), task=parse_task("reply+tone:witty"))
    fewer = Pass(parse_task("reply"), (Weighted(parts[0]),))
    options = TrainOptions(max_steps=2, batch_size=4, precision="float32")
    made = train_calibration(
        base, [pass_of(parts), other], [examples, examples], kind="core", options=options,
        progress=False,
    )  # fmt: skip
    assert made.tensors["q_proj"]["core"].shape == (6, 6)
    with pytest.raises(OnepassError, match=r"core of q_proj would be \(6, 6\) for .*\(4, 4\) for"):
        train_calibration(base, [pass_of(parts), fewer], [examples, examples], kind="core")
    bare = Pass(TASK)
    with pytest.raises(OnepassError, match=r"acts on adapters; .* has none"):
        train_calibration(base, [bare], [examples], kind="core")


def composed(base: Base, parts: list[Adapter], kind: Kind) -> Composition:
    calibration = calibration_of(kind, parts, base.shape)
    return Composition(base.shape, TASK, (pass_of(parts, calibration),), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_holds_it_unless_it_has_biases(
    kind: Kind, base: Base, parts: list[Adapter], tmp_path: Path
) -> None:
    composition = composed(base, parts, kind)
    if kind == "lc-gain":
        with pytest.raises(OnepassError, match=r"output biases.*--kind lc\+\+.*as merged"):
            export_peft(composition, tmp_path / "peft")
        return
    export_peft(composition, tmp_path / "peft", torch.float32)
    found, expected = load_adapter(tmp_path / "peft"), pass_delta(composition.passes[0])
    for module, lora in found.modules.items():
        assert lora.rank == 6
        torch.testing.assert_close(lora.delta(), expected[module].delta(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_model_holds_it(
    kind: Kind, base: Base, parts: list[Adapter], tmp_path: Path
) -> None:
    composition = composed(base, parts, kind)
    with attached(base, composition.passes[0]):
        expected = logits(base)
    export_merged(composition, base, tmp_path / "merged", torch.float32)
    found = logits(load_base(tmp_path / "merged", "cpu"))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["core", "cat"])
def test_llama_cpp_runs_it(kind: Kind, qwen: Base, tmp_path: Path) -> None:
    engine_or_skip()
    composition = composed(qwen, random_parts(qwen, 2), kind)
    check_parity(qwen, composition, tmp_path / "parts")
    check_parity(qwen, composition, tmp_path / "fused", fused=True, compactly=True)
