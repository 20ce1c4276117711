"""A LoRA as llama.cpp reads it.

`alpha` is 0, which means that an adapter's scale is the user's alone: whatever scaling it was
trained with is in the factors already, as everywhere in onepass.

In 8 bits every 32 numbers of a row share a scale, and the rows of `up` are as long as the rank. So
a rank is filled up with zeros to a multiple of 32, unless that costs more bytes than it saves:
then `up` has 16 bits, as any factor has whose rows do not divide into blocks.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.passes import Pass, calibration_delta
from onepass.adapters.shape import BaseShape
from onepass.export.gguf.architecture import Layout
from onepass.export.gguf.compact import block_order
from onepass.export.gguf.file import Planned, describe_lora, write_gguf
from onepass.model.blocks import BLOCK, Array, stored_values

_BITS = {"F16": 16.0, "Q8_0": 8.5}


def write_lora(adapter: Adapter, layout: Layout, path: Path, adapter_type: str) -> None:
    """Write an adapter for a base of this layout in place, as "f32", "f16" or "q8_0".

    Raises:
        OnepassError: the base has no such layer in llama.cpp, or a number does not fit 16 bits.
    """
    planned = []
    for module, lora in adapter.modules.items():
        title = layout.name(f"{module}.weight")
        rank = _stored_rank(lora.rank, adapter_type)
        up = layout.arranged(lora.up, module)
        for suffix, factor, shape in (
            ("lora_a", lora.down, (rank, lora.down.shape[1])),
            ("lora_b", up, (up.shape[0], rank)),
        ):
            type_ = _factor_type(shape[1], adapter_type)
            make: Callable[[], Array] = partial(_filled, factor, shape)
            planned.append(Planned(f"{title}.{suffix}", shape, type_, make))
    planned.sort(key=lambda each: block_order(each.name))
    describe = partial(describe_lora, name=adapter.name, invocation=adapter.invocation)
    write_gguf(path, layout.architecture, describe, planned)


def as_stored(adapter: Adapter, adapter_type: str) -> Adapter:
    """The adapter with the numbers that a file of this type gives back, in float32."""
    modules = {}
    for module, lora in adapter.modules.items():
        rank = _stored_rank(lora.rank, adapter_type)
        down = _read_back(lora.down, lora.down.shape[1], adapter_type)
        modules[module] = Lora(down, _read_back(lora.up, rank, adapter_type))
    return replace(adapter, modules=modules)


def calibration_adapter(name: str, pass_: Pass, shape: BaseShape) -> Adapter | None:
    """The pass's calibration as an adapter, written out for every layer it acts on.

    One that acts on the adapters' factors has their ranks together, as no two layers are alike.
    """
    if pass_.calibration is None:
        return None
    return Adapter(f"calibration-{name}", calibration_delta(pass_, shape), shape.name)


def _factor_type(length: int, adapter_type: str) -> str:
    """The type of a factor whose rows are so long."""
    return "F16" if adapter_type == "q8_0" and length % BLOCK else adapter_type.upper()


def _stored_rank(rank: int, adapter_type: str) -> int:
    """The rank that the file's factors have: more than `rank` where zeros make it smaller."""
    if adapter_type != "q8_0":
        return rank
    filled = -(-rank // BLOCK) * BLOCK
    # As if both factors' other sides were as long: down is in 8 bits either way.
    alone = rank * (_BITS["Q8_0"] + _BITS["F16"])
    return filled if 2 * filled * _BITS["Q8_0"] <= alone else rank


def _filled(factor: torch.Tensor, shape: tuple[int, int]) -> Array:
    """The numbers, with zeros behind them up to a shape."""
    numbers: Array = factor.detach().float().cpu().numpy()
    rows, columns = (wanted - had for wanted, had in zip(shape, numbers.shape, strict=True))
    return np.pad(numbers, ((0, rows), (0, columns))) if rows or columns else numbers


def _read_back(factor: torch.Tensor, length: int, adapter_type: str) -> torch.Tensor:
    """What a file says the factor is, its rows filled up to a length before they are stored."""
    type_ = _factor_type(length, adapter_type)
    if type_ == "F32":
        return factor.float()
    if type_ == "F16":
        return factor.half().float()
    rows, columns = factor.shape
    stored = stored_values(_filled(factor, (rows, length)), type_)
    return torch.from_numpy(stored[:, :columns].copy())
