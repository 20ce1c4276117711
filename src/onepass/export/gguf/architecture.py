"""What llama.cpp calls the parts of a base, and how it wants their rows.

The names come from the `gguf` package; the rest follows llama.cpp's graphs
(https://github.com/ggml-org/llama.cpp/tree/master/src/models): which keys, which optional biases,
and that the architecture `llama` rotates neighbouring rows of q and k, where Hugging Face rotates
halves, so that those rows are stored in another order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from onepass.adapters.adapter import projection
from onepass.adapters.naming import layer_name
from onepass.core.errors import OnepassError
from onepass.core.optional import optional

_ATTENTION = frozenset({"q_proj", "k_proj", "v_proj"})
_ALL = _ATTENTION | {"o_proj", "gate_proj", "up_proj", "down_proj"}


@dataclass(frozen=True)
class Architecture:
    """A family of models; `name` is llama.cpp's.

    norm: the field that holds the epsilon, and where the configuration has it. biases: the
    projections that may have one. permuted: q and k rows are stored as neighbours. scaled_rope:
    factors of the rotary frequencies are read. output: needed even if it is the embedding.
    """

    name: str
    norm: tuple[str, str]
    biases: frozenset[str]
    permuted: bool = False
    scaled_rope: bool = False
    output: bool = False


_RMS = ("add_layer_norm_rms_eps", "rms_norm_eps")
_LAYER = ("add_layer_norm_eps", "layer_norm_eps")
ARCHITECTURES = {
    "llama": Architecture("llama", _RMS, _ALL, permuted=True, scaled_rope=True),
    "mistral": Architecture("llama", _RMS, _ALL, permuted=True, scaled_rope=True),
    "qwen2": Architecture("qwen2", _RMS, _ATTENTION),
    "qwen3": Architecture("qwen3", _RMS, frozenset()),
    "stablelm": Architecture("stablelm", _LAYER, _ATTENTION, output=True),
}
"""By Hugging Face's model_type."""


def architecture_of(config: Any) -> Architecture:
    """The architecture of a base with this configuration.

    Raises:
        OnepassError: llama.cpp's graph is not known here, or would compute something else.
    """
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise OnepassError(
            f"models of type {kind} cannot be exported as GGUF; "
            f"{', '.join(ARCHITECTURES)} can (export it as peft or merged)"
        )
    if config.hidden_act != "silu":
        raise OnepassError(
            f"hidden_act is {config.hidden_act}; llama.cpp computes {kind} models with silu"
        )
    if getattr(config, "sliding_window", None):
        raise OnepassError(
            f"sliding_window is {config.sliding_window}; llama.cpp gives {kind} models none, so "
            "long inputs would come out differently"
        )
    return ARCHITECTURES[kind]


def head_dim(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def rotary_dimensions(config: Any) -> int:
    """How many of a head's dimensions are rotated."""
    share = config.rope_parameters.get("partial_rotary_factor", 1.0)
    return int(head_dim(config) * share)


def rotary_factors(model: Any, architecture: Architecture) -> Tensor | None:
    """By what each rotary frequency is divided, (rotated / 2,); None where they are plain.

    Read from the model itself, so that every fixed scaling (llama3, linear) is the one it computes.
    """
    config = model.config
    kind = config.rope_parameters.get("rope_type", "default")
    if kind == "default":
        return None
    if kind not in ("llama3", "linear") or not architecture.scaled_rope:
        raise OnepassError(
            f"rope_type is {kind}; a GGUF of a {architecture.name} model holds "
            f"{'default, llama3 and linear' if architecture.scaled_rope else 'only default'} "
            "rotary positions here"
        )
    rotated = rotary_dimensions(config)
    theta = float(config.rope_parameters["rope_theta"])
    steps = torch.arange(0, rotated, 2, dtype=torch.float64) / rotated
    plain = theta**-steps
    scaled: Tensor = model.get_decoder().rotary_emb.inv_freq
    return (plain / scaled.double().cpu()).float()


def add_fields(writer: Any, config: Any, architecture: Architecture) -> None:
    """Add the model's dimensions to a `gguf.GGUFWriter`."""
    add_epsilon, where = architecture.norm
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_rope_dimension_count(rotary_dimensions(config))
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_vocab_size(config.vocab_size)
    getattr(writer, add_epsilon)(float(getattr(config, where)))
    if hasattr(config, "use_parallel_residual"):
        writer.add_parallel_residual(config.use_parallel_residual)


@dataclass(frozen=True)
class Layout:
    """How llama.cpp stores the layers of a base: what it calls them, and in which order of rows.

    architecture: llama.cpp's name. heads: how many there are of the projections whose rows are
    stored as neighbours.
    """

    architecture: str
    blocks: int
    heads: Mapping[str, int]

    def name(self, path: str) -> str:
        """A tensor's name in a GGUF file, from its Hugging Face name.

        Raises:
            OnepassError: the architecture has no such tensor.
        """
        found = self.find(path)
        if found is None:
            raise OnepassError(
                f"{path}: llama.cpp's architecture {self.architecture} has no such tensor; "
                "export it as peft or merged"
            )
        return found

    def find(self, path: str) -> str | None:
        """As `name`, or None. A multimodal model's path is that of its language model."""
        for each in (path, f"model.{layer_name(path)}"):
            if found := self._names.get_name(each, try_suffixes=(".weight", ".bias")):
                return str(found)
        return None

    def arranged(self, rows: Tensor, module: str) -> Tensor:
        """The rows (out, ...) of a module's weight, bias or LoRA `up`, in llama.cpp's order."""
        heads = self.heads.get(projection(module))
        return rows if heads is None else neighbours(rows, heads)

    @cached_property
    def _names(self) -> Any:
        gguf = optional("gguf", "device")
        known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
        if self.architecture not in known:
            raise OnepassError(
                f"the package gguf does not know the tensors of architecture {self.architecture}; "
                "a newer one may: pip install --upgrade gguf"
            )
        return gguf.get_tensor_name_map(known[self.architecture], self.blocks)


def layout_of(config: Any) -> Layout:
    """The layout of a base that is converted here; errors are those of `architecture_of`."""
    architecture = architecture_of(config)
    heads = head_counts(config) if architecture.permuted else {}
    return Layout(architecture.name, config.num_hidden_layers, heads)


def head_counts(config: Any) -> dict[str, int]:
    """By projection, the heads of q and k."""
    return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}


def neighbours(rows: Tensor, heads: int) -> Tensor:
    """Rows in which the halves of each head, which are rotated together, alternate."""
    pairs = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return pairs.transpose(1, 2).reshape(rows.shape)
