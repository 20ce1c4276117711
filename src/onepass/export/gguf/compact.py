"""Compact files: an adapter in which a tensor that several blocks have in common is stored once.

llama.cpp wants every layer's tensors apart, so that a calibration, which all layers share, takes as
many times its size as there are layers. A compact file is a GGUF like any other, but a tensor's
name may list blocks: `blk.0-15.attn_q.weight.lora_a`, or `blk.0,2,4-7.` and so on. Such a tensor
stands for one of each of these blocks, with the same type, shape and bytes. Expanding the file
writes each of them, ordered by block and then by what follows in the name.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.core.errors import OnepassError
from onepass.export.gguf.file import (
    Planned,
    describe_lora,
    invocation_of,
    read_gguf,
    write_gguf,
)

_BLOCK = re.compile(r"blk\.(\d+)\.(.+)", re.DOTALL)
_BLOCKS = re.compile(r"blk\.(\d{1,3}(?:-\d{1,3})?(?:,\d{1,3}(?:-\d{1,3})?)*)\.(.+)", re.DOTALL)
_LONGEST = 63  # bytes of a name, ggml's limit


def block_order(name: str) -> tuple[int, str]:
    """The sort key of a file's tensors: their block (none: -1), then the rest of their name."""
    match = _BLOCK.fullmatch(name)
    return (int(match[1]), match[2]) if match else (-1, name)


def compact(path: Path) -> bool:
    """Store the tensors of a plain file once where blocks share them; False if none do.

    Replaces the file in place: call it inside `atomic_folder`.
    """
    reader = read_gguf(path)
    shared: dict[tuple[object, ...], list[Any]] = {}
    for tensor in sorted(reader.tensors, key=lambda each: block_order(each.name)):
        _, rest = block_order(tensor.name)
        digest = hashlib.sha256(tensor.data.tobytes()).digest()
        key = (rest, tuple(tensor.shape), tensor.tensor_type, digest)
        shared.setdefault(key, []).append(tensor)
    parts = [(name, tensors[0]) for tensors in shared.values() for name in _common_names(tensors)]
    if len(parts) == len(reader.tensors):
        return False
    smaller = path.with_name(f"{path.name}.compact")
    _write(reader, parts, smaller)
    smaller.replace(path)
    return True


def expand(
    source: Path, target: Path, blocks: int, invocation: Sequence[int] | None = None
) -> None:
    """Write the plain file of a compact one, or of a plain one, for a base of so many blocks.

    invocation: what it states instead of the invocation of `source`.
    Raises:
        OnepassError: the file is damaged, or its blocks are not the base's.
        OSError: the target cannot be written.
    """
    reader = read_gguf(source)
    parts: dict[str, Any] = {}
    for tensor in reader.tensors:
        match = _BLOCKS.fullmatch(tensor.name)
        names = [f"blk.{n}.{match[2]}" for n in _numbers(match[1])] if match else [tensor.name]
        if (
            (tensor.name.startswith("blk.") and not match)
            or not 0 < len(names) == len(set(names))
            or any(name in parts or block_order(name)[0] >= blocks for name in names)
        ):
            raise OnepassError(
                f"{source}, tensor {tensor.name}: its blocks are not those of the base, 0 to "
                f"{blocks - 1}, each once; it is damaged, or was made for another base"
            )
        parts |= dict.fromkeys(names, tensor)
    ordered = sorted(parts.items(), key=lambda part: block_order(part[0]))
    _write(reader, ordered, target, invocation)


def _write(
    reader: Any,
    parts: Sequence[tuple[str, Any]],
    target: Path,
    invocation: Sequence[int] | None = None,
) -> None:
    """Write an adapter's file anew, with these tensors."""

    def stored(tensor: Any) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = tensor.data.view(np.uint8)
        return found

    architecture, title = (
        reader.get_field(f"general.{name}").contents() for name in ("architecture", "name")
    )
    planned = [
        Planned(
            name, tuple(map(int, tensor.shape[::-1])), tensor.tensor_type.name,
            partial(stored, tensor),
        )
        for name, tensor in parts
    ]  # fmt: skip
    stated = invocation_of(reader) if invocation is None else invocation
    describe = partial(describe_lora, name=title, invocation=stated)
    write_gguf(target, architecture, describe, planned)


def _numbers(listed: str) -> list[int]:
    """The numbers of a list such as "0,2,4-7"."""
    ends = [[int(end) for end in each.split("-")] for each in listed.split(",")]
    return [number for each in ends for number in range(each[0], each[-1] + 1)]


def _common_names(tensors: Sequence[Any]) -> Iterable[str]:
    """The names that list the blocks of these tensors: one, or as few as are not too long."""
    first, rest = block_order(tensors[0].name)
    if first < 0:
        yield rest
        return
    room = _LONGEST - len(f"blk..{rest}".encode())
    listed = ""
    for each in _as_ranges([block_order(tensor.name)[0] for tensor in tensors]):
        longer = f"{listed},{each}" if listed else each
        if listed and len(longer) > room:
            yield f"blk.{listed}.{rest}"
            longer = each
        listed = longer
    yield f"blk.{listed}.{rest}"


def _as_ranges(numbers: Sequence[int]) -> list[str]:
    """Ascending numbers, neighbours together: "0", "2-7"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return [str(low) if low == high else f"{low}-{high}" for low, high in ranges]
