"""A base rounded as a GGUF file of it would be."""

import dataclasses

import gguf
import pytest
import torch

from onepass.adapters.adapter import load_adapter
from onepass.adapters.composition import Pass, Weighted
from onepass.core.errors import OnepassError
from onepass.model.assets import embedded_adapter
from onepass.model.attach import attached, folded
from onepass.model.blocks import BLOCK, stored_values
from onepass.model.load import Base, load_base
from onepass.model.quantized import ROUNDINGS, round_weights
from onepass.tasks.benchmark import COMPOSITIONAL_TASKS
from onepass.tasks.book import parse_task


@pytest.mark.parametrize(("kind", "steps"), [("q8_0", 127), ("q4_0", 8)])
def test_a_block_is_rounded_by_a_step_of_its_own(kind: str, steps: int) -> None:
    """Half a step at most, but for the end of the shorter side of 4 bits; zeros stay."""
    values = torch.randn(50, BLOCK, generator=torch.Generator().manual_seed(1))
    values *= torch.logspace(-3, 3, 50)[:, None]
    values[2] = 0
    off = (torch.from_numpy(stored_values(values.numpy(), kind)) - values).abs()
    step = values.abs().amax(dim=1, keepdim=True) / steps
    assert (off <= 1.01 * step).all()
    assert (off <= 0.505 * step).float().mean() > 0.95


@pytest.mark.parametrize("kind", ROUNDINGS)
def test_a_rounded_base_is_what_the_file_would_say(kind: str) -> None:
    plain, rounded = load_base("tiny"), load_base("tiny", quantization=kind)
    assert rounded.quantization == kind
    assert plain.identity != rounded.identity
    type_ = gguf.GGMLQuantizationType[kind.upper()]
    differing = 0
    for (name, before), after in zip(
        plain.model.named_parameters(), rounded.model.parameters(), strict=True
    ):
        if before.dim() != 2:
            assert torch.equal(before, after), name
            continue
        wanted = gguf.quants.dequantize(gguf.quants.quantize(before.numpy(), type_), type_)
        assert torch.equal(after, torch.from_numpy(wanted)), name
        differing += not torch.equal(before, after)
    assert differing > 4


def test_rounding_twice_changes_nothing_more() -> None:
    once = load_base("tiny", quantization="q4_0")
    before = {name: p.clone() for name, p in once.model.named_parameters()}
    round_weights(once.model, "q4_0")
    for name, parameter in once.model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_rows_that_are_no_whole_blocks_stay_as_they_are(base: Base) -> None:
    """As in the file, which holds such a matrix unrounded."""
    model = base.model
    odd = [p for p in model.parameters() if p.dim() == 2 and p.shape[1] % BLOCK]
    assert odd
    kept = [p.clone() for p in odd]
    round_weights(model, "q4_0")
    assert all(torch.equal(one, other) for one, other in zip(odd, kept, strict=True))


def test_a_composition_lies_unrounded_on_a_rounded_base() -> None:
    """The engine adds adapters to what the rounded weights give: folding must do the same."""
    rounded = load_base("tiny", quantization="q4_0")
    task = COMPOSITIONAL_TASKS[0]
    adapters = [load_adapter(embedded_adapter(part)) for part in task.split("+")]
    pass_ = Pass(parse_task(task), tuple(Weighted(adapter, 0.5) for adapter in adapters))
    ids = torch.arange(5, 40)[None]
    logits = []
    for way in (folded, attached):
        with way(rounded, pass_), torch.inference_mode():
            logits.append(rounded.model(input_ids=ids).logits)
    assert torch.allclose(logits[0], logits[1], atol=1e-4)


def test_an_unknown_quantization_is_told(base: Base) -> None:
    with pytest.raises(OnepassError, match=r"unknown quantization 'q4_1': did you mean 'q4_0'"):
        load_base("tiny", quantization="q4_1")
    assert dataclasses.replace(base, quantization="q8_0").identity.endswith(" q8_0")
