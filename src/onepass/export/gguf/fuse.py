"""Several adapters as one: their factors side by side, each up to its scale.

(s₁B₁ | s₂B₂ | ...) (A₁ over A₂ over ...) = Σ sᵢBᵢAᵢ, so this is the same function; an engine
computes two products for it in every layer, instead of two for each adapter. Numbers are copied as
they are stored, those of B times the adapter's scale. Only where types differ some are stored
anew: in 8 bits if any factor is, its rank then filled up with zeros to whole blocks.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.core.errors import OnepassError
from onepass.core.optional import optional
from onepass.export.gguf.compact import block_order
from onepass.export.gguf.file import Planned, Raw, describe_lora, write_gguf
from onepass.export.gguf.header import Bytes, Tensor, mapped, read_header, type_name
from onepass.model.blocks import BLOCK

_FLOATS: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_BLOCKS = np.dtype([("scale", "<f2"), ("numbers", "i1", BLOCK)])
_PREFERRED = (
    "Q8_0",
    "F32",
    "F16",
)  # what factors of several types are stored as: the first there is


def fuse(sources: Sequence[tuple[Path, float]], target: Path, architecture: str, name: str) -> None:
    """Write one plain adapter file, called `name`, that does what these do at their scales.

    Raises:
        OnepassError: a file is damaged or no adapter of this architecture, two do not fit
            together, or a scale is too large for the type it is stored in.
        OSError: the target cannot be written.
    """
    with ExitStack() as stack:
        adapters = [
            _Adapter(path, stack.enter_context(mapped(path)), scale)
            for path, scale in sources
            if scale
        ]
        weights = {weight for adapter in adapters for weight in adapter.factors}
        planned = [
            factor
            for weight in sorted(weights, key=block_order)
            for factor in _side_by_side(weight, [a for a in adapters if weight in a.factors])
        ]
        write_gguf(target, architecture, partial(describe_lora, name=name), planned)


@dataclass(frozen=True)
class _Adapter:
    path: Path
    data: Bytes
    scale: float

    @cached_property
    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A and B, by the name of the weight that they change."""
        tensors = {each.name: each for each in read_header(self.path, self.data).tensors}
        found = {}
        for name, down in tensors.items():
            weight, _, factor = name.rpartition(".")
            if factor == "lora_b" and f"{weight}.lora_a" in tensors:
                continue
            up = tensors.get(f"{weight}.lora_b")
            if factor != "lora_a" or up is None or not _fit(down, up):
                raise OnepassError(f"{self.path}, tensor {name}: it is not one half of a LoRA")
            found[weight] = (down, up)
        return found

    def raw(self, tensor: Tensor) -> Raw:
        # A copy: a file cannot be unmapped while an array lies in it.
        data = self.data[tensor.start : tensor.start + tensor.size]
        return np.frombuffer(data, np.uint8).reshape(tensor.shape[1], -1)


def _fit(down: Tensor, up: Tensor) -> bool:
    return len(down.shape) == len(up.shape) == 2 and down.shape[1] == up.shape[0]


def _side_by_side(weight: str, adapters: Sequence[_Adapter]) -> list[Planned]:
    """The two factors of a weight, over all the adapters that change it."""
    pairs = [adapter.factors[weight] for adapter in adapters]
    columns, rows = pairs[0][0].shape[0], pairs[0][1].shape[1]
    for adapter, (down, up) in zip(adapters, pairs, strict=True):
        if (down.shape[0], up.shape[1]) != (columns, rows):
            raise OnepassError(
                f"{adapter.path}: {weight} is {(up.shape[1], down.shape[0])}, but "
                f"{(rows, columns)} in {adapters[0].path}; they were made for different bases"
            )
    down_type, up_type = (_common(tensors) for tensors in zip(*pairs, strict=True))
    multiple = BLOCK if up_type == "Q8_0" else 1
    ranks = [-(-up.shape[0] // multiple) * multiple for _, up in pairs]

    def downs() -> Raw:
        return np.concatenate(
            [
                _filled_rows(_as(adapter.raw(down), type_name(down), down_type, columns), rank)
                for adapter, (down, _), rank in zip(adapters, pairs, ranks, strict=True)
            ]
        )

    def ups() -> Raw:
        return np.concatenate(
            [
                _scaled(adapter, _as(adapter.raw(up), type_name(up), up_type, rank), up_type)
                for adapter, (_, up), rank in zip(adapters, pairs, ranks, strict=True)
            ],
            axis=1,
        )

    rank = sum(ranks)
    return [
        Planned(f"{weight}.lora_a", (rank, columns), down_type, downs),
        Planned(f"{weight}.lora_b", (rows, rank), up_type, ups),
    ]


def _common(tensors: Sequence[Tensor]) -> str:
    found = {type_name(tensor) for tensor in tensors}
    for type_ in _PREFERRED:
        if type_ in found:
            return type_
    raise OnepassError(f"{tensors[0].name} is of type {found.pop()}; expected f32, f16 or q8_0")


def _as(raw: Raw, type_: str, wanted: str, length: int) -> Raw:
    """Rows of one type as those of another, with zeros behind them up to so many numbers."""
    if type_ == wanted:
        return raw
    gguf = optional("gguf", "device")
    quants, kinds = gguf.quants, gguf.GGMLQuantizationType
    numbers = quants.dequantize(raw, kinds[type_])
    numbers = np.pad(numbers, ((0, 0), (0, length - numbers.shape[1])))
    # As one row: the package takes sixteen at a time, which is slow where they are short.
    stored = quants.quantize(numbers.reshape(1, -1), kinds[wanted])
    return np.ascontiguousarray(stored).view(np.uint8).reshape(len(raw), -1)


def _filled_rows(raw: Raw, count: int) -> Raw:
    return np.pad(raw, ((0, count - len(raw)), (0, 0)))


def _scaled(adapter: _Adapter, raw: Raw, type_: str) -> Raw:
    """The rows with all their numbers times the adapter's scale."""
    if adapter.scale == 1.0:
        return raw
    scaled = raw.copy()
    numbers: NDArray[Any] = (
        scaled.view(_BLOCKS)["scale"] if type_ == "Q8_0" else scaled.view(_FLOATS[type_])
    )
    with np.errstate(over="ignore"):
        numbers[...] = numbers.astype(np.float32) * np.float32(adapter.scale)
    if not np.isfinite(numbers).all():
        raise OnepassError(
            f"{adapter.path}: at scale {adapter.scale:g} its numbers do not fit {type_}; "
            "run the composition as parts"
        )
    return scaled
