"""Keeping a model still while something is computed with it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

_PUT_ON: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without trainable parameters; both are put back after.

    Parameters that are added meanwhile are left alone.
    """
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def rounded(layers: Iterable[nn.Linear], dtype: torch.dtype) -> Iterator[None]:
    """Frozen layers of float32 with their weights in `dtype`; the very same are put back after.

    Under autocast to `dtype` nothing changes but that weights are not rounded anew, and kept for
    the way back, at every product. Without it the layers do not take float32.
    """
    before = [
        (layer, layer.weight)
        for layer in layers
        if layer.weight.dtype == torch.float32 and not layer.weight.requires_grad
    ]
    try:
        for layer, weight in before:
            layer.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        yield
    finally:
        for layer, weight in before:
            layer.weight = weight


def is_bare(model: nn.Module) -> bool:
    """Whether nothing is folded into the model or attached to it just now."""
    return not _PUT_ON.get(model)


@contextmanager
def put_on(model: nn.Module) -> Iterator[None]:
    """The model, not bare meanwhile."""
    _PUT_ON[model] = _PUT_ON.get(model, 0) + 1
    try:
        yield
    finally:
        _PUT_ON[model] -= 1
