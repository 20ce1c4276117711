"""The loss of a frozen output layer, some rows of logits at a time.

The logits of one batch over 262,144 words take gigabytes, and as much again for their gradient. The
output layer is frozen, so all that training needs of them is the loss and its gradient with respect
to the layer's inputs. Both are computed while the logits of a few rows exist, and nothing is
computed twice. `torch.nn.functional.linear_cross_entropy` (torch 2.13) does not cap logits and
computes in float32 under autocast.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK = 1 << 25
"""Logits that exist at one time: 128 MiB in float32. Fewer make the products slower."""

_PROBE = 16  # tokens


@dataclass(frozen=True)
class Head:
    """An output `layer` and what follows it: logits of y are cap · tanh(y / cap), or y itself."""

    layer: nn.Linear
    cap: float | None


_KNOWN: "WeakKeyDictionary[PreTrainedModel, float | bool]" = WeakKeyDictionary()


def frozen_head(model: "PreTrainedModel", ids: Tensor) -> Head | None:
    """The output layer of `model` if `head_loss` can stand in for it; None otherwise.

    What the model does after its layer is read from its config, and compared once with what it
    computes for the first of `ids`.
    """
    layer = model.get_output_embeddings()
    if not (type(layer) is nn.Linear and layer.weight.is_floating_point() and _unchanged(layer)):
        return None
    if torch.is_grad_enabled() and any(p.requires_grad for p in layer.parameters()):
        return None
    cap = _KNOWN.get(model)
    if cap is None:
        cap = _KNOWN[model] = _cap(model, layer, ids[:1, :_PROBE])
    return None if cap is False else Head(layer, cap or None)


def head_inputs(
    model: "PreTrainedModel", head: Head, given: Mapping[str, Any], kept: Tensor
) -> Tensor:
    """What `model`, called with `given`, gives its output layer at the positions `kept`.

    kept: a mask (batch, tokens). Returns (positions, width).
    """
    found: list[Tensor] = []

    def take(input: Tensor) -> Tensor:
        found.append(input)
        return input.new_empty(0, head.layer.out_features)

    # Not a hook: under autocast the layer would be rounded anew for the product of no rows.
    head.layer.forward = take  # type: ignore[method-assign]
    try:
        model(**given, logits_to_keep=kept)
    finally:
        del head.layer.forward
    return found[0]


def head_loss(head: Head, inputs: Tensor, targets: Tensor, chunk: int = CHUNK) -> Tensor:
    """The summed cross-entropy (nats) of `targets` (tokens,) given the layer's inputs (tokens, in).

    Products are in the dtype of autocast, or in the layer's; everything else is in float32.
    chunk: the most logits that exist at one time, but at least those of one token.
    """
    device = inputs.device.type
    weight, bias = head.layer.weight, head.layer.bias
    dtype = weight.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    rows = max(1, chunk // weight.shape[0])
    with torch.autocast(device, enabled=False):
        loss: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
            inputs.to(dtype),
            weight.detach().to(dtype),
            None if bias is None else bias.detach().to(dtype),
            targets,
            head.cap,
            rows,
        )
    return loss


class _HeadLoss(torch.autograd.Function):
    """Of the loss only the gradient with respect to the inputs, made beside the loss, is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        cap: float | None,
        rows: int,
    ) -> Tensor:
        loss = torch.zeros((), device=inputs.device)
        gradient = torch.empty_like(inputs) if inputs.requires_grad else None
        for first in range(0, len(inputs), rows):
            some = slice(first, first + rows)
            wanted = targets[some, None]
            logits = F.linear(inputs[some], weight, bias).float()
            slope = None
            if cap is not None:
                logits = logits.div_(cap).tanh_()
                slope = 1 - logits.square()
                logits.mul_(cap)
            logits.sub_(logits.amax(-1, keepdim=True))
            picked = logits.gather(-1, wanted)
            total = logits.exp_().sum(-1, keepdim=True)
            loss += (total.log() - picked).sum()
            if gradient is not None:
                # softmax(logits) - one-hot(target), and back through the cap
                logits.div_(total).scatter_add_(-1, wanted, -torch.ones_like(picked))
                if slope is not None:
                    logits.mul_(slope)
                torch.mm(logits.to(weight.dtype), weight, out=gradient[some])
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return None if gradient is None else gradient * grads[0], None, None, None, None, None


def _unchanged(layer: nn.Linear) -> bool:
    """Whether calling the layer does nothing but multiply; accelerate replaces `forward`."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks)
    return "forward" not in vars(layer) and not any(hooks)


@torch.no_grad()
def _cap(model: "PreTrainedModel", layer: nn.Linear, ids: Tensor) -> float | bool:
    """The model's cap on logits, 0.0 if it has none, False if its logits are something else."""
    found: list[Tensor] = []
    hook = layer.register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
    if len(found) != 1 or found[0].shape != logits.shape:
        return False
    if torch.equal(logits, found[0]):
        return 0.0
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if cap and torch.allclose(logits, (found[0] / cap).tanh() * cap, rtol=1e-5, atol=0):
        return float(cap)
    return False
