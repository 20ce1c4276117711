"""Putting one pass of a composition on a base: folded into its weights, or beside them.

Both are context managers that leave the base exactly as they found it. Folding costs one pass over
the weights and then nothing per token; attaching leaves the weights alone (quantised ones cannot
take a sum) and costs a low-rank product per layer and token.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onepass.adapters.adapter import Lora
from onepass.adapters.passes import Pass, check_pass, pass_bias, pass_delta
from onepass.core.errors import OnepassError
from onepass.model.frozen import frozen, put_on
from onepass.model.load import Base

Effect = Callable[[Tensor, Tensor], Tensor]
"""From a layer's output y (..., out) and input x (..., in) to its new output."""


def merged(
    base: Base, pass_: Pass, dtype: torch.dtype | None = None
) -> AbstractContextManager[None]:
    """`folded` where the weights allow it, `attached` otherwise."""
    foldable = all(
        base.model.get_submodule(path).weight.is_floating_point() for path in base.shape.modules
    )
    return folded(base, pass_, dtype) if foldable else attached(base, pass_)


@contextmanager
def folded(base: Base, pass_: Pass, dtype: torch.dtype | None = None) -> Iterator[None]:
    """The base with the pass summed into its weights and biases, in float32, then rounded.

    dtype: of the changed weights meanwhile; by default their own. See `frozen.rounded`.
    Needs memory for one more copy of the changed layers. On leaving, the very tensors that were
    there before are put back, so nothing is lost to rounding.
    """
    deltas, biases = _changes(base, pass_)
    layers = linears(base, {*deltas, *biases})
    before = {path: (layer.weight.data, layer.bias) for path, layer in layers.items()}
    with put_on(base.model), ExitStack() as stack:
        stack.callback(_put_back, layers, before)
        for path, lora in deltas.items():
            weight = layers[path].weight
            if not weight.is_floating_point():
                raise OnepassError(
                    f"{path} of the base {base.name} is quantised and cannot take a folded "
                    "composition; attach it instead"
                )
            up, down = (factor.to(weight.device, torch.float32) for factor in (lora.up, lora.down))
            total = torch.addmm(weight.data.float(), up, down)
            weight.data = total.to(weight.dtype).to(dtype or weight.dtype)
        for path, bias in biases.items():
            layer = layers[path]
            total = bias.to(layer.weight.device, torch.float32)
            total = total if layer.bias is None else total + layer.bias.data.float()
            stored = before[path][0] if layer.bias is None else layer.bias
            layer.bias = nn.Parameter(total.to(stored.dtype), requires_grad=False)
        yield


def _put_back(
    layers: Mapping[str, nn.Linear], before: Mapping[str, tuple[Tensor, nn.Parameter]]
) -> None:
    for path, (weight, bias) in before.items():
        layers[path].weight.data = weight
        layers[path].bias = bias


@contextmanager
def attached(base: Base, pass_: Pass) -> Iterator[None]:
    """The base with the pass computed beside it, y = Wx + up(down x) + bias; weights untouched."""
    deltas, biases = _changes(base, pass_)
    effects: dict[str, Effect] = {}
    for path, layer in linears(base, {*deltas, *biases}).items():
        lora, bias = deltas.get(path), biases.get(path)
        device, dtype = layer.weight.device, _compute_dtype(layer)
        effects[path] = _beside(
            None if lora is None else (lora.down.to(device, dtype), lora.up.to(device, dtype)),
            None if bias is None else bias.to(device, dtype),
        )
    with altered(base, effects):
        yield


@contextmanager
def altered(base: Base, effects: dict[str, Effect]) -> Iterator[None]:
    """The base with `effects[path]` applied to what the linear layer at `path` gives."""
    with ExitStack() as stack:
        stack.enter_context(frozen(base.model))
        stack.enter_context(put_on(base.model))
        for path, layer in linears(base, effects).items():
            stack.callback(layer.register_forward_hook(_hook(effects[path])).remove)
        yield


def add_lowrank(y: Tensor, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """y + up (down x) for y (..., out), x (..., in), down (r, in), up (out, r).

    What layers share may be on another device than this layer.
    """
    narrow = F.linear(x, down.to(x))
    # One fused product-and-sum: at these sizes a sum of its own costs as much as the product.
    rows = torch.addmm(y.flatten(0, -2), narrow.flatten(0, -2).to(y.dtype), up.to(y).t())
    return rows.view_as(y)


def linears(base: Base, paths: Iterable[str]) -> dict[str, nn.Linear]:
    """The linear layers of the base at `paths`; an `OnepassError` for a path it does not have."""
    found: dict[str, nn.Linear] = {}
    for path in paths:
        if path not in base.shape.modules:
            raise OnepassError(
                f"the base {base.name} has no layer {path}; the adapters are for another base"
            )
        layer = base.model.get_submodule(path)
        assert isinstance(layer, nn.Linear)  # base.shape lists nothing else
        found[path] = layer
    return found


def _changes(base: Base, pass_: Pass) -> tuple[dict[str, Lora], dict[str, Tensor]]:
    check_pass(pass_, base.shape)
    return pass_delta(pass_, base.shape), pass_bias(pass_, base.shape)


def _beside(factors: tuple[Tensor, Tensor] | None, bias: Tensor | None) -> Effect:
    def effect(y: Tensor, x: Tensor) -> Tensor:
        if factors is not None:
            y = add_lowrank(y, x, *factors)
        return y if bias is None else y + bias.to(y)

    return effect


def _hook(effect: Effect) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    return lambda module, inputs, output: effect(output, inputs[0])


def _compute_dtype(layer: nn.Linear) -> torch.dtype:
    """The dtype of the layer's outputs; that of a quantised layer is not that of its weight."""
    if layer.weight.is_floating_point():
        return layer.weight.dtype
    return getattr(layer, "compute_dtype", None) or torch.float32
