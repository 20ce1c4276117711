"""A pass on a base: folding and attaching agree, and both leave no trace."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from conftest import MakeAdapter
from onepass.adapters.calibration import Calibration
from onepass.adapters.composition import Pass, Weighted
from onepass.core.errors import OnepassError
from onepass.model.attach import attached, folded, merged
from onepass.model.load import Base
from onepass.tasks.book import parse_task

IDS = torch.arange(7, 47).view(2, 20)
Attach = Callable[[Base, Pass], AbstractContextManager[None]]
FORMS = ["none", "output", "column", "lowrank"]


def logits(base: Base) -> Tensor:
    with torch.no_grad():
        result: Tensor = base.model(input_ids=IDS).logits
    return result


def random_calibration(base: Base, form: str) -> Calibration | None:
    torch.manual_seed(3)
    if form == "none":
        return None
    shapes = base.shape.projections()
    if form == "lowrank":
        pairs = {
            p: {"down": torch.randn(2, in_) * 0.1, "up": torch.randn(out, 2) * 0.1}
            for p, (out, in_) in shapes.items()
        }
        return Calibration("lc++", "lowrank", pairs)
    biases = {p: {"bias": torch.randn(out) * 0.1} for p, (out, _) in shapes.items()}
    return Calibration("lc", "output" if form == "output" else "column", biases)


@pytest.fixture
def make_pass(base: Base, make_adapter: MakeAdapter) -> Callable[[str], Pass]:
    def make(form: str) -> Pass:
        one, two = make_adapter("summarize", 4, 0, 0.3), make_adapter("translate:es", 2, 1, 0.3)
        weighted = (Weighted(one, 0.5), Weighted(two, 0.7))
        return Pass(parse_task("summarize+translate:es"), weighted, random_calibration(base, form))

    return make


@pytest.mark.parametrize("form", FORMS)
def test_folded_and_attached_agree(base: Base, make_pass: Callable[[str], Pass], form: str) -> None:
    pass_, before = make_pass(form), logits(base)
    with folded(base, pass_):
        one = logits(base)
    with attached(base, pass_):
        two = logits(base)
    torch.testing.assert_close(one, two, atol=1e-4, rtol=0)
    assert (one - before).abs().max() > 0.1
    with merged(base, pass_):
        assert torch.equal(logits(base), one)


@pytest.mark.parametrize("form", FORMS)
def test_folding_is_the_dense_sum(base: Base, make_pass: Callable[[str], Pass], form: str) -> None:
    path = "model.layers.1.mlp.gate_proj"
    layer, pass_ = base.model.get_submodule(path), make_pass(form)
    expected = layer.weight.data.clone()
    for weighted in pass_.adapters:
        expected += weighted.weight * weighted.adapter.modules[path].delta()
    parts = pass_.calibration.tensors["gate_proj"] if pass_.calibration else {}
    if form == "column":
        expected += parts["bias"][:, None]
    elif form == "lowrank":
        expected += parts["up"] @ parts["down"]
    with folded(base, pass_):
        torch.testing.assert_close(layer.weight.data, expected)
        assert (layer.bias is None) == (form != "output")
        if form == "output":
            torch.testing.assert_close(layer.bias.data, parts["bias"])


@pytest.mark.parametrize("context", [folded, attached])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_leaving_restores_every_bit_even_on_an_error(
    base: Base,
    make_pass: Callable[[str], Pass],
    context: Attach,
    dtype: torch.dtype,
) -> None:
    base.model.to(dtype)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), context(base, make_pass("output")):
        raise KeyboardInterrupt
    after = base.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    hooks = [m._forward_hooks for m in base.model.modules() if isinstance(m, nn.Linear)]
    assert not any(hooks)


def test_a_bias_the_base_has_is_added_to_and_restored(base: Base) -> None:
    path = "model.layers.0.self_attn.q_proj"
    layer = base.model.get_submodule(path)
    layer.bias = nn.Parameter(torch.full((32,), 2.0), requires_grad=False)
    old = layer.bias
    calibration = Calibration("lc", "output", {"q_proj": {"bias": torch.ones(32)}})
    with folded(base, Pass(parse_task("summarize"), (), calibration)):
        assert layer.bias.data.eq(3.0).all()
    assert layer.bias is old
    assert old.data.eq(2.0).all()


def test_an_empty_pass_changes_nothing(base: Base) -> None:
    before = logits(base)
    for context in (folded, attached):
        with context(base, Pass(parse_task("summarize"))):
            assert torch.equal(logits(base), before)


def test_an_adapter_for_another_base_is_refused(base: Base, make_adapter: MakeAdapter) -> None:
    adapter = make_adapter()
    adapter.modules["model.layers.9.mlp.up_proj"] = adapter.modules["model.layers.0.mlp.up_proj"]
    for context in (folded, attached):
        with (
            pytest.raises(OnepassError, match=r"layers\.9"),
            context(base, Pass(parse_task("summarize"), (Weighted(adapter),))),
        ):
            pass
