"""Several adapters as one: their factors side by side, each up times its scale.

(s₁B₁ | s₂B₂ | ...) (A₁ over A₂ over ...) = Σ sᵢBᵢAᵢ, so this is the same function; an engine
computes two products for it in every layer, instead of two for each adapter. In 8 bits, where 32
numbers of a row share a scale, each up is padded with zeros to whole blocks, so that every number
keeps the rounding it has in its own file; only where types differ, some are rounded anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from onepass.core.errors import OnepassError
from onepass.export.gguf.compact import block_order
from onepass.export.gguf.file import (
    LARGEST,
    Planned,
    dequantized,
    describe_lora,
    read_gguf,
    write_gguf,
)
from onepass.model.blocks import BLOCK, Array

_PREFERRED = ("Q8_0", "F32", "F16")
"""The type of a factor made from several: the first of these that one of them has."""


def fuse(
    sources: Sequence[tuple[Path, float]],
    target: Path,
    architecture: str,
    name: str,
    invocation: Sequence[int] = (),
) -> None:
    """Write one plain adapter file, called `name`, that does what these do at their scales.

    invocation: where the new one begins to act, whatever the files say; () for everywhere.
    Raises:
        OnepassError: a file is damaged or no adapter of this architecture, two do not fit
            together, or a scale is too large for the type it is stored in.
        OSError: the target cannot be written.
    """
    adapters = [_Adapter(path, scale) for path, scale in sources if scale]
    weights = {weight for adapter in adapters for weight in adapter.factors}
    planned = [
        factor
        for weight in sorted(weights, key=block_order)
        for factor in _side_by_side(weight, [a for a in adapters if weight in a.factors])
    ]
    describe = partial(describe_lora, name=name, invocation=invocation)
    write_gguf(target, architecture, describe, planned)


@dataclass(frozen=True)
class _Adapter:
    path: Path
    scale: float

    @cached_property
    def factors(self) -> dict[str, tuple[Any, Any]]:
        """The tensors of A and B, by the name of the weight that they change."""
        tensors = {each.name: each for each in read_gguf(self.path).tensors}
        found = {}
        for weight in {name.rpartition(".")[0] for name in tensors}:
            down, up = (tensors.pop(f"{weight}.lora_{factor}", None) for factor in "ab")
            if down is None or up is None or len(down.shape) != 2 or down.shape[1] != up.shape[0]:
                raise OnepassError(f"{self.path}: {weight} has not both halves of a LoRA")
            found[weight] = (down, up)
        if tensors:
            raise OnepassError(f"{self.path}: {min(tensors)} is no half of a LoRA")
        return found


def _side_by_side(weight: str, adapters: Sequence[_Adapter]) -> list[Planned]:
    """The two factors of a weight, over all the adapters that change it."""
    pairs = [adapter.factors[weight] for adapter in adapters]
    columns, rows = int(pairs[0][0].shape[0]), int(pairs[0][1].shape[1])
    for adapter, (down, up) in zip(adapters, pairs, strict=True):
        if (down.shape[0], up.shape[1]) != (columns, rows):
            raise OnepassError(
                f"{adapter.path}: {weight} is {(int(up.shape[1]), int(down.shape[0]))}, but "
                f"{(rows, columns)} in {adapters[0].path}; they were made for different bases"
            )
    down_type, up_type = (_common(tensors) for tensors in zip(*pairs, strict=True))
    multiple = BLOCK if up_type == "Q8_0" else 1
    ranks = [-(-int(up.shape[0]) // multiple) * multiple for _, up in pairs]

    def downs() -> Array:
        numbers = [dequantized(down) for down, _ in pairs]
        padded = zip(numbers, ranks, strict=True)
        return np.concatenate([np.pad(each, ((0, r - len(each)), (0, 0))) for each, r in padded])

    def ups() -> Array:
        padded = []
        for adapter, (_, up), rank in zip(adapters, pairs, ranks, strict=True):
            scaled = dequantized(up) * np.float32(adapter.scale)
            if not np.abs(scaled).max() <= LARGEST[up_type]:
                raise OnepassError(
                    f"{adapter.path}: at scale {adapter.scale:g} its numbers do not fit {up_type}; "
                    "run the composition as parts"
                )
            padded.append(np.pad(scaled, ((0, 0), (0, rank - scaled.shape[1]))))
        return np.concatenate(padded, axis=1)

    rank = sum(ranks)
    return [
        Planned(f"{weight}.lora_a", (rank, columns), down_type, downs),
        Planned(f"{weight}.lora_b", (rows, rank), up_type, ups),
    ]


def _common(tensors: Sequence[Any]) -> str:
    found = {tensor.tensor_type.name for tensor in tensors}
    for type_ in _PREFERRED:
        if type_ in found:
            return type_
    raise OnepassError(f"{tensors[0].name} is of type {found.pop()}; expected f32, f16 or q8_0")
