"""A base as GGUF, in any of the types that can be written without llama.cpp's own tools."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onepass.core.optional import optional
from onepass.export.gguf.architecture import (
    add_fields,
    architecture_of,
    layout_of,
    rotary_factors,
)
from onepass.export.gguf.file import FILE_TYPES, Planned, storage_type, write_gguf
from onepass.export.gguf.tokenizer import add_tokenizer
from onepass.model.blocks import Array, stored_values
from onepass.model.load import Base

_HEAD_NORM = re.compile(r"(.+\.[qk]_layernorm)\.norms\.(\d+)(\.weight)$")


def write_base(base: Base, path: Path, base_type: str) -> None:
    """Write the base, with whatever is folded into it just now, in place.

    Raises:
        OnepassError: its architecture, rotary scaling or tokenizer is not supported, or a weight
            does not fit the type.
    """
    config = base.model.config
    architecture, layout = architecture_of(config), layout_of(config)

    def describe(writer: Any) -> None:
        gguf = optional("gguf", "device")
        writer.add_type("model")
        writer.add_name(Path(base.name).name)
        writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[base_type]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        add_fields(writer, config, architecture)
        add_tokenizer(writer, base)

    tensors: dict[str, Callable[[], Tensor]] = {
        layout.name(path): partial(layout.arranged, tensor, path.rpartition(".")[0])
        for path, tensor in _state(base, architecture.output).items()
    }
    factors = rotary_factors(base.model, architecture)
    if factors is not None:
        tensors["rope_freqs.weight"] = lambda: factors
    planned = []
    for title, make in tensors.items():
        shape = tuple(make().shape)  # a view until it is permuted, so this costs next to nothing
        planned.append(
            Planned(title, shape, storage_type(title, shape, base_type), partial(_numbers, make))
        )
    write_gguf(path, architecture.name, describe, planned)


def stored_state(base: Base, base_type: str) -> Iterator[tuple[str, Tensor]]:
    """Each parameter's path and what a file of this type holds of it, in its own dtype.

    Rows in another order are quantised no differently: a block of numbers lies within a row.
    """
    name = layout_of(base.model.config).name
    for path, tensor in base.model.named_parameters():
        kind = "F32" if _HEAD_NORM.match(path) else ""
        kind = kind or storage_type(name(path), tuple(tensor.shape), base_type)
        if kind != "F32":
            values = stored_values(_numbers(tensor.detach), kind)
            yield path, torch.from_numpy(values).to(tensor.device, tensor.dtype)


def _state(base: Base, output: bool) -> dict[str, Tensor]:
    """The model's tensors: a tied output left out unless it is wanted, norms per head stacked."""
    tied = base.model.config.tie_word_embeddings and not output
    state: dict[str, Tensor] = {}
    heads: dict[str, list[Tensor]] = {}
    for path, tensor in base.model.state_dict().items():
        match = _HEAD_NORM.match(path)
        if match:
            heads.setdefault(f"{match[1]}{match[3]}", []).append(tensor)
        elif not (tied and path == "lm_head.weight"):
            state[path] = tensor
    return state | {path: torch.stack(norms) for path, norms in heads.items()}


def _numbers(make: Callable[[], Tensor]) -> Array:
    numbers: Array = make().float().cpu().numpy()
    return numbers
