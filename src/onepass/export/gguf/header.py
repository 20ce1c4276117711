"""The header of a GGUF file: its fields, and where each tensor is.

The layout is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Not `gguf.GGUFReader`,
which trusts every count in the file: one wrong number keeps it busy for hours.
"""

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.optional import optional

ALIGNMENT = 32
_MAGIC = b"GGUF"
_SCALARS = "BbHhIif?--Qqd"  # letters of `struct` by GGUF's number of a type; 8: text, 9: list
_TEXT, _LIST = 8, 9
_DIMENSIONS = 4  # the most that a tensor of llama.cpp's has

Bytes = bytes | mmap.mmap


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file; `shape` is in GGUF's order, columns first. Its bytes: start, size."""

    name: str
    shape: tuple[int, ...]
    type: int
    start: int
    size: int


def type_name(tensor: Tensor) -> str:
    """The name of a tensor's type: "F16", "Q8_0", ..."""
    return str(optional("gguf", "device").GGMLQuantizationType(tensor.type).name)


@dataclass(frozen=True)
class Header:
    """The fields (None for a list), and all tensors; fields_end: where the tensors' infos begin."""

    fields: dict[str, Any]
    fields_end: int
    tensors: list[Tensor]


def padded(size: int) -> int:
    """`size` rounded up to the alignment of tensors."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def read_header(path: Path, data: Bytes) -> Header:
    """The header of the file `path`, whose bytes are `data`.

    Raises:
        OnepassError: it is no GGUF file, is damaged or cut short, or its tensors do not lie one
            behind the other.
    """
    try:
        return _parse(data)
    except (ValueError, struct.error, MemoryError) as error:
        raise OnepassError(f"{path} is no GGUF file, or is cut short ({error})") from error


@contextmanager
def mapped(path: Path) -> Iterator[Bytes]:
    """The bytes of a file that may be too large for memory."""
    try:
        with path.open("rb") as file:
            empty = path.stat().st_size == 0  # which cannot be mapped
            data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise OnepassError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        yield data
    finally:
        if isinstance(data, mmap.mmap):
            data.close()


class _Reader:
    def __init__(self, data: Bytes) -> None:
        self.data, self.at = data, 0

    def number(self, kind: str) -> Any:
        (value,) = struct.unpack_from(f"<{kind}", self.data, self.at)
        self.at += struct.calcsize(f"<{kind}")
        return value

    def raw(self, size: int) -> bytes:
        begin, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise ValueError(f"{size:,} bytes expected at {begin:,}")
        return self.data[begin : self.at]

    def text(self) -> str:
        return self.raw(self.number("Q")).decode()

    def value(self) -> Any:
        """The value of a field; None for a list, which is skipped."""
        kind = self.number("I")
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            return self.number(_scalar(kind))
        kind, count = self.number("I"), self.number("Q")
        if kind != _TEXT:
            self.raw(struct.calcsize(f"<{_scalar(kind)}") * count)
            return None
        for _ in range(count):  # as many as the file has bytes for, then `raw` ends it
            self.raw(self.number("Q"))
        return None


def _scalar(kind: int) -> str:
    if kind >= len(_SCALARS) or _SCALARS[kind] == "-":
        raise ValueError(f"a value of type {kind}")
    return _SCALARS[kind]


def _parse(data: Bytes) -> Header:
    reader = _Reader(data)
    magic, version = reader.raw(4), reader.number("I")
    if magic != _MAGIC or version not in (2, 3):
        raise ValueError(f"it begins with {magic!r}, version {version}")
    count, field_count = reader.number("Q"), reader.number("Q")
    fields: dict[str, Any] = {}
    for _ in range(field_count):
        name = reader.text()
        if name in fields:
            raise ValueError(f"two fields {name}")
        fields[name] = reader.value()
    if fields.get("general.alignment", ALIGNMENT) != ALIGNMENT:
        raise ValueError(f"general.alignment is {fields['general.alignment']}, not {ALIGNMENT}")
    fields_end = reader.at
    infos: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(count):
        name, dimensions = reader.text(), reader.number("I")
        if name in infos:
            raise ValueError(f"two tensors {name}")
        if dimensions > _DIMENSIONS:
            raise ValueError(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(reader.number("Q") for _ in range(dimensions))
        infos[name] = (shape, reader.number("I"), reader.number("Q"))
    begin, offset = padded(reader.at), 0
    tensors = []
    for name, (shape, kind, found) in infos.items():
        size = _size(name, shape, kind)
        if found != offset or begin + offset + size > len(data):
            raise ValueError(f"the {size:,} bytes of tensor {name} are not where they should be")
        tensors.append(Tensor(name, shape, kind, begin + offset, size))
        offset += padded(size)
    return Header(fields, fields_end, tensors)


def _size(name: str, shape: tuple[int, ...], kind: int) -> int:
    sizes = optional("gguf", "device").GGML_QUANT_SIZES
    if kind not in sizes:
        raise ValueError(f"tensor {name} is of type {kind}")
    block, size = sizes[kind]
    if not shape or 0 in shape or shape[0] % block:
        raise ValueError(f"tensor {name} of type {kind} has shape {shape[::-1]}")
    return int(math.prod(shape) // block * size)
