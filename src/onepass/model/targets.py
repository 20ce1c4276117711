"""Which layers of a base adapters and calibrations may change."""

from typing import TYPE_CHECKING

from torch import nn

from onepass.adapters.composition import BaseShape
from onepass.adapters.lora import layer, projection
from onepass.core.errors import OnepassError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def base_shape(model: "PreTrainedModel", name: str | None = None) -> BaseShape:
    """The (out, in) shape of each linear layer in the blocks of the text model.

    Embeddings, the output layer and the vision tower of a multimodal model are never among them.
    Works on a model on the meta device too. `name` defaults to the name in the model's config.

    Raises:
        OnepassError: no block has a linear layer.
    """
    name = str(model.config.name_or_path) if name is None else name
    decoder = model.get_decoder()
    root = next(path for path, module in model.named_modules() if module is decoder)
    modules = {}
    for inside, module in decoder.named_modules():
        # A block is an item of a list, so that the path of what is in it has a number before its
        # last name.
        if isinstance(module, nn.Linear) and any(map(str.isdigit, inside.split(".")[:-1])):
            path = f"{root}.{inside}" if root else inside
            modules[path] = (module.out_features, module.in_features)
    if not modules:
        kinds = sorted({type(m).__name__ for m in decoder.modules() if hasattr(m, "weight")})
        raise OnepassError(
            f"the blocks of base {name} have no layer of type Linear, which adapters change; "
            f"what has weights there is of type {', '.join(kinds)}"
        )
    return BaseShape(name, modules)


def describe_targets(shape: BaseShape) -> str:
    """The covered layers in one line: "14 layers: q_proj k_proj ... down_proj in 2 blocks"."""
    kinds = dict.fromkeys(map(projection, shape.modules))
    blocks = len({layer(module) for module in shape.modules})
    return f"{len(shape.modules)} layers: {' '.join(kinds)} in {blocks} blocks"
