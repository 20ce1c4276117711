"""A LoRA as llama.cpp reads it.

`alpha` is 0, which means that an adapter's scale is the user's alone: whatever scaling it was
trained with is in the factors already, as everywhere in onepass.
"""

from functools import partial
from pathlib import Path
from typing import Any

from onepass.adapters.adapter import Adapter
from onepass.export.gguf.architecture import architecture_of, arranged, tensor_names
from onepass.export.gguf.file import Planned, write_gguf
from onepass.model.quantized import Array


def write_lora(adapter: Adapter, config: Any, path: Path, type_: str) -> None:
    """Write an adapter for a base with this configuration in place; type_: "F32" or "F16".

    Raises:
        OnepassError: the architecture is not supported, or a number does not fit F16.
    """
    architecture = architecture_of(config)
    name = tensor_names(architecture, config.num_hidden_layers)

    def describe(writer: Any) -> None:
        writer.add_type("adapter")
        writer.add_name(adapter.name)
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", 0.0)

    planned = []
    for module, lora in adapter.modules.items():
        title = name(f"{module}.weight")
        up = arranged(lora.up, module, config, architecture)
        for suffix, factor in (("lora_a", lora.down), ("lora_b", up)):
            shape = tuple(factor.shape)
            planned.append(Planned(f"{title}.{suffix}", shape, type_, partial(_numbers, factor)))
    write_gguf(path, architecture.name, describe, planned)


def _numbers(factor: Any) -> Array:
    numbers: Array = factor.detach().float().cpu().numpy()
    return numbers
