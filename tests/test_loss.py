"""The loss in chunks is the loss of all logits at once, for every base it stands in for."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from base_kit import CONFIGS, tiny_model
from conftest import MakeAdapter
from onepass.adapters.composition import Pass, Weighted
from onepass.model import tokens
from onepass.model.load import Base
from onepass.model.loss import Head, frozen_head, head_loss
from onepass.model.tokens import IGNORE, Batch, target_loss
from onepass.model.training import adapter, calibration, objective
from onepass.model.training.adapter import train_adapter
from onepass.model.training.calibration import train_calibration
from onepass.model.training.options import TrainOptions
from onepass.tasks.book import parse_task
from onepass.tasks.example import Example

WORDS = 37
QUICK = TrainOptions(
    learning_rate=0.02, max_steps=6, batch_size=4, eval_every=2, precision="float32"
)
TEXT = CONFIGS["gemma3-text"][1]
TASK = "summarize+translate:es"


def whole(head: Head, inputs: Tensor, targets: Tensor) -> Tensor:
    """As it is defined."""
    logits = head.layer(inputs).float()
    if head.cap is not None:
        logits = (logits / head.cap).tanh() * head.cap
    return F.cross_entropy(logits, targets, reduction="sum")


def with_gradient(loss: Any, head: Head, inputs: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
    inputs = inputs.clone().requires_grad_(True)
    summed = 3 * loss(head, inputs, *more)
    (gradient,) = torch.autograd.grad(summed, inputs)
    return summed.detach(), gradient


@settings(max_examples=100)
@given(
    count=st.integers(1, 12),
    chunk=st.integers(1, 14 * WORDS),
    cap=st.sampled_from([None, 0.5, 30.0]),
    bias=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
    low=st.booleans(),
    seed=st.integers(0, 3),
)
def test_the_loss_and_its_gradient_are_those_of_all_logits(
    count: int, chunk: int, cap: float | None, bias: bool, scale: float, low: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    head = Head(nn.Linear(8, WORDS, bias=bias).requires_grad_(False), cap)
    inputs, targets = torch.randn(count, 8) * scale, torch.randint(WORDS, (count,))
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        expected = with_gradient(whole, head, inputs, targets)
        found = with_gradient(head_loss, head, inputs, targets, chunk)
        assert with_gradient(head_loss, head, inputs, targets)[1].dtype == inputs.dtype
    # In bfloat16, half a unit in the last of 8 bits of each logit.
    relative, absolute = (2e-2, 2e-2 * scale) if low else (1e-5, 1e-5)
    torch.testing.assert_close(found, expected, rtol=relative, atol=absolute)


def test_without_a_gradient_only_the_loss_is_computed() -> None:
    head = Head(nn.Linear(8, WORDS).requires_grad_(False), None)
    inputs, targets = torch.randn(5, 8), torch.randint(WORDS, (5,))
    loss = head_loss(head, inputs, targets, 2 * WORDS)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, whole(head, inputs, targets))


def divided() -> PreTrainedModel:
    config = transformers.GraniteConfig(**TEXT, logits_scaling=4.0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def capped() -> PreTrainedModel:
    config = transformers.Gemma2Config(**TEXT, final_logit_softcapping=0.5)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    **{
        family: partial(tiny_model, family)
        for family in ("qwen3", "phi3", "gemma3-text", "gemma3", "gpt2")
    },
    "gemma2": capped,
    "granite": divided,
}


def losses(
    model: PreTrainedModel, chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor, int]:
    """The loss of a batch with its gradient by the embedded inputs; chunk None: all logits."""
    ids = torch.arange(3, 33).view(3, 10)
    labels = ids.clone()
    labels[0, :7] = labels[1, :3] = labels[2, 5:] = IGNORE
    embedded: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_(True))
        return embedded[-1]

    monkeypatch.setattr(tokens, "CHUNK", 1 << 40 if chunk is None else chunk)
    monkeypatch.setattr(tokens, "head_loss", partial(head_loss, chunk=chunk or 1))
    hook = model.get_input_embeddings().register_forward_hook(keep)
    loss, count = target_loss(model, Batch(ids, labels))
    hook.remove()
    (gradient,) = torch.autograd.grad(loss, embedded[-1])
    return loss.detach(), gradient, count


@pytest.mark.parametrize("family", MODELS)
def test_a_models_loss_is_the_same_in_chunks(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = MODELS[family]().requires_grad_(False)
    expected = losses(model, None, monkeypatch)
    torch.testing.assert_close(losses(model, 1000, monkeypatch), expected, rtol=1e-4, atol=1e-5)
    head = frozen_head(model, torch.arange(8)[None])
    assert (head is None) == (family == "granite")
    if head is not None:
        assert head.cap == (0.5 if family == "gemma2" else None)


def test_a_cap_that_the_model_does_not_apply_is_not_applied() -> None:
    """By its config alone it could be believed; Llama ignores the field."""
    config = transformers.LlamaConfig(**TEXT, final_logit_softcapping=0.5)
    model = transformers.AutoModelForCausalLM.from_config(config).requires_grad_(False)
    head = frozen_head(model, torch.arange(8)[None])
    assert head is not None
    assert head.cap is None


def test_a_layer_that_is_trained_or_changed_is_left_to_autograd() -> None:
    model, ids = tiny_model("qwen3").requires_grad_(False), torch.arange(8)[None]
    layer = model.get_output_embeddings()
    assert frozen_head(model, ids) is not None
    layer.weight.requires_grad_(True)
    assert frozen_head(model, ids) is None
    with torch.no_grad():
        assert frozen_head(model, ids) is not None
    layer.weight.requires_grad_(False)
    hook = layer.register_forward_hook(lambda module, inputs, output: output + 1)
    assert frozen_head(model, ids) is None
    hook.remove()
    model.set_output_embeddings(nn.Sequential(layer))
    assert frozen_head(model, ids) is None


def test_all_logits_never_exist_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gemma3-text").requires_grad_(False)
    shapes: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _, _, count = losses(model, None, monkeypatch)
        assert (count, 300) in shapes
        shapes.clear()
        losses(model, 1000, monkeypatch)
    assert (count, 32) in shapes
    assert (count, 300) not in shapes


@pytest.fixture
def merge(make_adapter: MakeAdapter) -> Pass:
    one, two = make_adapter("summarize", 4, 0, 0.2), make_adapter("translate:es", 4, 1, 0.2)
    return Pass(parse_task(TASK), (Weighted(one, 0.5), Weighted(two, 0.5)))


def trained(base: Base, merge: Pass, examples: list[Example], **more: Any) -> dict[str, Tensor]:
    """A calibration, and an adapter, each trained for some steps: its tensors by name."""
    given: dict[str, Any] = {"options": QUICK, "progress": False, **more}
    found = train_calibration(base, [merge], [examples[:8]], [examples[8:]], **given)
    lora = train_adapter(base, merge.task, examples[:8], examples[8:], rank=2, **given)
    return {
        **{f"{p}.{n}": t for p, parts in found.tensors.items() for n, t in parts.items()},
        **{f"{path}.up": factors.up for path, factors in lora.modules.items()},
    }


def test_training_in_chunks_and_parts_learns_the_same(
    base: Base, merge: Pass, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = trained(base, merge, examples)
    monkeypatch.setattr(tokens, "CHUNK", 1)
    monkeypatch.setattr(tokens, "head_loss", partial(head_loss, chunk=900))
    longest = max(map(len, tokens.encode_examples(base, merge.task, examples)))
    outputs = sum(out for out, _ in base.shape.modules.values())
    monkeypatch.setattr(objective, "_KEPT", 2 * longest * outputs)  # batches of 4 in two parts
    in_parts = trained(base, merge, examples)
    for name, expected in at_once.items():
        torch.testing.assert_close(in_parts[name], expected, rtol=1e-3, atol=1e-4)


def test_weights_rounded_once_give_the_same_numbers(
    base: Base, merge: Pass, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, and the base gets back the very weights it had."""
    low, before = replace(QUICK, precision="bfloat16"), dict(base.model.named_parameters())
    products: list[torch.dtype] = []
    layer = base.model.get_submodule(next(iter(base.shape.modules)))

    def note(module: nn.Linear, inputs: Any) -> None:
        products.append(module.weight.dtype)

    hook = layer.register_forward_pre_hook(note)
    once = trained(base, merge, examples, options=low)
    assert set(products) == {torch.bfloat16}
    products.clear()
    for module in (calibration, adapter):
        monkeypatch.setattr(module, "low_weights", lambda *given: nullcontext())
    monkeypatch.setattr(calibration, "low_dtype", lambda *given: None)
    each_time = trained(base, merge, examples, options=low)
    assert set(products) == {torch.float32}
    hook.remove()
    for name, expected in each_time.items():
        assert torch.equal(once[name], expected), name
    after = dict(base.model.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is weight for name, weight in before.items())
    assert base.model.get_output_embeddings().weight is base.model.get_input_embeddings().weight


def test_training_in_chunks_resumes_exactly(
    base: Base,
    merge: Pass,
    examples: list[Example],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def train(**more: Any) -> dict[str, dict[str, Tensor]]:
        given: dict[str, Any] = {"options": QUICK, "progress": False, **more}
        return train_calibration(base, [merge], [examples[:8]], [examples[8:]], **given).tensors

    def stop(step: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(tokens, "CHUNK", 1)
    in_one_go = train()
    with pytest.raises(KeyboardInterrupt):
        train(state_dir=tmp_path, on_step=stop)
    resumed = train(state_dir=tmp_path)
    for proj, parts in in_one_go.items():
        for name, expected in parts.items():
            assert torch.equal(resumed[proj][name], expected)
