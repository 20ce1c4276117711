"""GGUF files: written one tensor at a time, and read; the type of each tensor of a base."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.core.errors import OnepassError
from onepass.core.optional import optional
from onepass.model.blocks import BLOCK, Array

FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
"""What `gguf.LlamaFileType` calls a base of each type."""

LARGEST = {"F32": np.inf, "F16": 65504.0, "Q8_0": 127 * 65504.0, "Q4_0": 8 * 65504.0}
"""The largest number of each type of tensor; blocks have 16-bit scales."""
_SHORT = 1 << 22
INVOCATION = "adapter.alora.invocation_tokens"
"""The key of an activated adapter's file that holds its invocation."""


def storage_type(name: str, shape: Sequence[int], base_type: str) -> str:
    """The type, "F32", "F16", "Q8_0" or "Q4_0", of a base's tensor; `name` is its GGUF name.

    Every weight matrix has `base_type`, the embedding and the output included; norms, biases and
    rotary factors are F32, and so is a matrix whose rows do not divide into blocks of 32.
    """
    wanted = base_type.upper()
    if len(shape) != 2 or not name.endswith(".weight") or "norm" in name:
        return "F32"
    if wanted.startswith("Q") and shape[-1] % BLOCK:
        return "F32"
    return wanted


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: `make` returns its numbers, of `shape`, when its turn comes.

    Or the bytes that are stored of them, as uint8.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    make: Callable[[], Array | NDArray[np.uint8]]


def describe_lora(writer: Any, name: str, invocation: Sequence[int] = ()) -> None:
    """Add what says that a file is a LoRA, whose scale is the user's alone, to a `GGUFWriter`.

    invocation: the token ids from whose last place in a prompt on it acts; () for everywhere.
    """
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)
    if invocation:
        kinds = optional("gguf", "device").GGUFValueType
        # By itself the writer stores ints as INT32, which llama.cpp refuses.
        writer.add_key_value(INVOCATION, list(invocation), kinds.ARRAY, sub_type=kinds.UINT32)


def write_gguf(
    path: Path, architecture: str, describe: Callable[[Any], None], tensors: Sequence[Planned]
) -> None:
    """Write a file in place; `describe` is given the `gguf.GGUFWriter` to add its fields to.

    Only one tensor at a time is in memory. Call it inside `atomic_folder` or `atomic_file`.
    """
    gguf = optional("gguf", "device")
    kinds = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(path, architecture)
    try:
        describe(writer)
        for tensor in tensors:
            kind = kinds[tensor.type]
            block, size = gguf.GGML_QUANT_SIZES[kind]
            count = int(np.prod(tensor.shape)) // block * size
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype("float32"), count, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_stored(tensor, gguf, path))
    finally:
        writer.close()


def _stored(tensor: Planned, gguf: Any, path: Path) -> NDArray[Any]:
    """The numbers in the tensor's type; as bytes if numpy has no such type."""
    made = tensor.make()
    if made.dtype == np.uint8:
        return made
    values = np.ascontiguousarray(made, dtype=np.float32)
    assert values.shape == tensor.shape, (tensor.name, values.shape, tensor.shape)
    largest = np.abs(values).max()
    if not largest <= LARGEST[tensor.type]:
        raise OnepassError(
            f"{path.name}, tensor {tensor.name}: values up to {largest:.3g} do not fit "
            f"{tensor.type}; store it as F32"
        )
    # The package quantises sixteen rows at a time: small matrices as one row, which is faster.
    rows = values.reshape(1, -1) if values.size < _SHORT else values
    stored: NDArray[Any] = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[tensor.type])
    return stored.reshape(*values.shape[:-1], -1)


def read_gguf(path: Path) -> Any:
    """A `gguf.GGUFReader`; an `OnepassError` if it is no GGUF file, or is damaged."""
    try:
        return optional("gguf", "device").GGUFReader(path)
    except (ValueError, LookupError, OverflowError) as error:
        if "GGMLQuantizationType" in str(error):
            raise OnepassError(
                f"{path} has tensors of a type that the package gguf does not know ({error}); a "
                "newer one may: pip install --upgrade gguf"
            ) from error
        raise OnepassError(f"{path} is no GGUF file, or is cut short ({error})") from error
    except OSError as error:
        raise OnepassError(f"cannot read {path}: {error.strerror or error}") from error


def invocation_of(reader: Any) -> tuple[int, ...]:
    """The invocation that the file of an adapter states; () for an ordinary one."""
    field = reader.get_field(INVOCATION)
    return () if field is None else tuple(field.contents())


def header(reader: Any) -> dict[str, Any]:
    """What the header of a base's file says of it, by the names of the fields of `BaseFile`.

    A file may leave out its type, which is then that of most of its bytes, and its licence.
    Raises:
        OnepassError: it is no language model, or one of several parts.
    """

    def value(key: str, otherwise: Any = None) -> Any:
        field = reader.get_field(key)
        return otherwise if field is None else field.contents()

    parts = int(value("split.count", 1))
    if parts > 1:
        raise OnepassError(f"it is one of {parts} parts; join them with llama-gguf-split --merge")
    architecture = str(value("general.architecture", ""))
    words = reader.get_field("tokenizer.ggml.tokens")
    found = {
        "architecture": architecture,
        "type": _type_name(reader, value("general.file_type")),
        "vocabulary": 0 if words is None else len(words.data),
        "context": int(value(f"{architecture}.context_length", 0)),
        "blocks": int(value(f"{architecture}.block_count", 0)),
        "license": str(value("general.license", "")),
    }
    if not all(found[name] for name in ("vocabulary", "context", "blocks")):
        raise OnepassError(
            f"it is no language model that llama.cpp runs: architecture {architecture or 'none'}, "
            f"{found['blocks']} blocks, {found['vocabulary']} words"
        )
    return found


def _type_name(reader: Any, stated: int | None) -> str:
    kinds = optional("gguf", "device").LlamaFileType
    if stated in set(map(int, kinds)):
        return str(kinds(stated).name.lower()).removeprefix("mostly_").removeprefix("all_")
    sizes: dict[str, int] = {}
    for tensor in reader.tensors:
        kind = tensor.tensor_type.name.lower()
        sizes[kind] = sizes.get(kind, 0) + int(tensor.n_bytes)
    return max(sizes, key=lambda kind: sizes[kind], default="f32")


def unread_types(reader: Any) -> list[str]:
    """The types of the file's tensors whose numbers the package gguf cannot give."""
    first = {tensor.tensor_type: tensor for tensor in reader.tensors}
    return sorted(kind.name.lower() for kind, each in first.items() if not _readable(each))


def dequantized(tensor: Any, rows: slice = slice(None)) -> Array:
    """The numbers of a file's tensor, or of some of its rows, in float32."""
    quants = optional("gguf", "device").quants
    found: Array = quants.dequantize(tensor.data[rows], tensor.tensor_type)
    return found


def _readable(tensor: Any) -> bool:
    try:
        dequantized(tensor, slice(1))
    except NotImplementedError:
        return False
    return True
