"""Compact files: a GGUF in which a tensor that several blocks have in common is stored once.

llama.cpp wants every layer's tensors apart, so that a calibration, which all layers share, takes as
many times its size as there are layers. A compact file is a GGUF like any other, but a tensor's
name may list blocks: `blk.0-15.attn_q.weight.lora_a`, or `blk.0,2,4-7.` and so on. Such a tensor
stands for one of each of these blocks, with the same type, shape and bytes. To expand the file is
to write each of them, ordered by block and then by what follows in the name; the fields stay as
they are.
"""

import hashlib
import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.export.gguf.header import Bytes, Header, Tensor, mapped, padded, read_header

_NUMBER = r"(0|[1-9][0-9]{0,2})"
_BLOCK = re.compile(rf"blk\.{_NUMBER}\.(.+)", re.DOTALL)
_BLOCKS = re.compile(r"blk\.([^.]*)\.(.+)", re.DOTALL)
_RANGE = re.compile(rf"{_NUMBER}(?:-{_NUMBER})?")
_LONGEST = 63  # bytes of a name, as ggml takes them
_INFO = 64  # bytes that a tensor takes beside its name and its numbers, at least

Part = tuple[str, Tensor]
"""A tensor of an expanded file: its name there, and the stored tensor that has its bytes."""


def block_order(name: str) -> tuple[int, str]:
    """What a file's tensors are sorted by: their block (none: -1), then the rest of their name."""
    match = _BLOCK.fullmatch(name)
    return (int(match[1]), match[2]) if match else (-1, name)


def compact(path: Path) -> bool:
    """Store the tensors of a plain file once where blocks share them; False where none do.

    Replaces the file in place: call it inside `atomic_folder`.
    """
    data = path.read_bytes()
    header = read_header(path, data)
    shared: dict[tuple[object, ...], list[Tensor]] = {}
    for tensor in sorted(header.tensors, key=lambda each: block_order(each.name)):
        _, rest = block_order(tensor.name)
        digest = hashlib.sha256(_bytes_of(tensor, data)).digest()
        shared.setdefault((rest, tensor.shape, tensor.type, digest), []).append(tensor)
    parts = [(name, tensors[0]) for tensors in shared.values() for name in _common_names(tensors)]
    if len(parts) == len(header.tensors):
        return False
    path.write_bytes(b"".join(_file(header, data, parts)))
    return True


def expand(source: Path, target: Path, blocks: int, most: int) -> None:
    """Write the plain file of a compact one.

    blocks: how many the base has. most: bytes that it may at most become.
    Raises:
        OnepassError: the file is damaged, a name lists blocks wrongly, or it would be too large.
        OSError: the target cannot be written.
    """
    with mapped(source) as data:
        header = read_header(source, data)
        parts = expanded(source, header, blocks, most)
        with target.open("wb") as file:
            file.writelines(_file(header, data, parts))


def expanded(path: Path, header: Header, blocks: int, most: int) -> list[Part]:
    """The tensors that a compact file stands for, in their order; see `expand`."""
    ranges = {tensor.name: _ranges(path, tensor.name, blocks) for tensor in header.tensors}
    size = sum(
        (padded(tensor.size) + len(tensor.name) + _INFO)
        * max(1, sum(map(len, ranges[tensor.name])))
        for tensor in header.tensors
    )
    # Before anything is made of it: a few bytes can list very many blocks.
    if size > most:
        raise OnepassError(
            f"{path}: its tensors stand for {size:,} bytes in all, more than an adapter of this "
            f"base may have ({most:,}); write the set again"
        )
    found: dict[str, Tensor] = {}
    for tensor in header.tensors:
        _, rest = _split(tensor.name)
        numbers = [number for each in ranges[tensor.name] for number in each]
        names = [f"blk.{number}.{rest}" for number in numbers] or [tensor.name]
        for name in names:
            if name in found:
                raise OnepassError(
                    f"{path}, tensor {tensor.name}: there is another one that stands for {name}; "
                    "write the set again"
                )
            found[name] = tensor
    return sorted(found.items(), key=lambda part: block_order(part[0]))


def _split(name: str) -> tuple[str, str]:
    """The list of blocks in a name, "" where there is none, and what follows it."""
    match = _BLOCKS.fullmatch(name)
    return (match[1], match[2]) if match else ("", name)


def _ranges(path: Path, name: str, blocks: int) -> list[range]:
    listed, _ = _split(name)
    found = []
    for each in listed.split(",") if listed or name.startswith("blk.") else []:
        match = _RANGE.fullmatch(each)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else -1
        if last < first:
            raise OnepassError(
                f"{path}, tensor {name}: {each!r} is no block and no range of blocks; "
                "write the set again"
            )
        if last >= blocks:
            raise OnepassError(
                f"{path}, tensor {name}: there is no block {last}, the base has {blocks}; "
                "it was made for another base"
            )
        found.append(range(first, last + 1))
    return found


def _common_names(tensors: Sequence[Tensor]) -> Iterable[str]:
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


def _file(header: Header, data: Bytes, parts: Sequence[Part]) -> Iterable[bytes]:
    """A GGUF with a file's fields and these tensors, as `gguf.GGUFWriter` writes one."""
    begin = bytearray(data[: header.fields_end])
    struct.pack_into("<Q", begin, 8, len(parts))
    offset = 0
    for name, tensor in parts:
        title, dimensions = name.encode(), len(tensor.shape)
        begin += struct.pack("<Q", len(title)) + title
        begin += struct.pack(f"<I{dimensions}QIQ", dimensions, *tensor.shape, tensor.type, offset)
        offset += padded(tensor.size)
    yield bytes(begin).ljust(padded(len(begin)), b"\0")
    for _, tensor in parts:
        yield _bytes_of(tensor, data).ljust(padded(tensor.size), b"\0")


def _bytes_of(tensor: Tensor, data: Bytes) -> bytes:
    return data[tensor.start : tensor.start + tensor.size]
