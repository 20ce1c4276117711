"""Tiny random models as GGUF files, of architectures that the project itself does not convert."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from onepass.export.gguf.tokenizer import add_tokenizer
from onepass.model.load import Base

PERMUTED = ("llama", "smollm3")
"""The architectures in which q and k have the halves of each head as neighbouring rows."""


def write_model(
    base: Base,
    path: Path,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    license_: str | None = "mit",
    split_count: int = 1,
    window: bool = True,
) -> Path:
    """Write a base with its tokenizer as llama.cpp's own conversion does, matrices as `kind`."""
    config = base.model.config
    name = {"gemma3_text": "gemma3", "mistral": "llama"}.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, name)
    writer.add_name("tiny")
    if license_ is not None:
        writer.add_license(license_)
    writer.add_uint16("split.count", split_count)
    _describe(writer, config, name, window)
    add_tokenizer(writer, base)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[name.upper()], config.num_hidden_layers)
    for title, tensor in base.model.state_dict().items():
        if title == "lm_head.weight" and config.tie_word_embeddings:
            continue
        found = names.get_name(title, try_suffixes=(".weight", ".bias"))
        assert found is not None, title
        numbers = tensor.float().numpy()
        if name in PERMUTED and title.endswith(("q_proj.weight", "k_proj.weight")):
            heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
            numbers = _neighbours(numbers, heads[title.rpartition("_proj")[0][-1]])
        if name == "gemma3" and title.endswith("norm.weight"):
            numbers = numbers + 1
        if title.endswith("conv.conv.weight"):
            numbers = numbers.squeeze(1)
        as_matrix = numbers.ndim == 2 and "norm" not in title and not title.endswith("conv.weight")
        stored = _quantized(numbers, kind) if as_matrix else numbers
        writer.add_tensor(found, stored, raw_dtype=kind if as_matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _describe(writer: Any, config: Any, name: str, window: bool) -> None:
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv: Any = config.num_key_value_heads
    if name == "lfm2":
        kv = [kv if kind == "full_attention" else 0 for kind in config.layer_types]
        writer.add_shortconv_l_cache(config.conv_L_cache)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(kv)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(getattr(config, "rms_norm_eps", None) or config.norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(rope["rope_theta"])
    if window and getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)


def _neighbours(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """The rows of each head's halves alternating, as llama.cpp's `LlamaModel.permute` does."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _quantized(numbers: NDArray[np.float32], kind: gguf.GGMLQuantizationType) -> NDArray[Any]:
    """As `gguf.quants.quantize`, and Q1_0, which that does not have: a scale and 128 signs."""
    if kind != gguf.GGMLQuantizationType.Q1_0:
        found: NDArray[Any] = gguf.quants.quantize(numbers, kind)
        return found
    blocks = numbers.reshape(-1, 128)
    scales = np.abs(blocks).mean(1, keepdims=True).astype(np.float16).view(np.uint8)
    signs = np.packbits(blocks >= 0, axis=1, bitorder="little")
    return np.concatenate([scales, signs], axis=1).reshape(len(numbers), -1)


def dequantize_file(source: Path, target: Path) -> Path:
    """A copy with the same fields, its numbers in 32 bits."""
    reader = gguf.GGUFReader(source)
    fields = dict(reader.fields)
    writer = gguf.GGUFWriter(target, fields.pop("general.architecture").contents())
    for name, field in fields.items():
        if not name.startswith("GGUF.") and name != "general.file_type":
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, np.ascontiguousarray(numbers, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
