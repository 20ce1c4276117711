"""Tiny random bases of many families, from memory and from GGUF files."""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from bpe import learn_bpe

TEXT = "Ana: Shall we meet at noon? Ben: Yes, at the harbour. Summarize the conversation."
_SPECIAL = ("<|end|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_TEXT = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 128, "initializer_range": 0.1,
    "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
_VISION = {"depth": 1, "num_heads": 2, "hidden_size": 32}
_SIGLIP = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _TEXT | {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", _TEXT | {"tie_word_embeddings": True}),
    "stablelm": ("StableLmConfig", _TEXT | {"use_qkv_bias": True}),
    "gemma3-text": (
        "Gemma3TextConfig",
        _TEXT | {
            "head_dim": 12, "query_pre_attn_scalar": 12, "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "qwen3": ("Qwen3Config", _TEXT | {"head_dim": 12}),
    "smollm3": ("SmolLM3Config", _TEXT | {"no_rope_layers": [1, 0]}),
    "phi3": ("Phi3Config", _TEXT | {"sliding_window": 16}),
    "mistral": ("MistralConfig", _TEXT | {"head_dim": 12, "sliding_window": 16}),
    "lfm2": (
        "Lfm2Config",
        _TEXT | {
            "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"],
            "intermediate_size": 72, "block_multiple_of": 8, "head_dim": 12,
        },
    ),
    "gemma4-text": (
        "Gemma4TextConfig",
        _TEXT | {
            "global_head_dim": 16, "sliding_window": 16, "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 300, "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "gpt-neox": ("GPTNeoXConfig", _TEXT),
    "falcon": ("FalconConfig", {k: v for k, v in _TEXT.items() if k != "head_dim"}),
    "gemma3": (
        "Gemma3Config",
        {"text_config": _TEXT, "vision_config": _SIGLIP, "mm_tokens_per_image": 4},
    ),
    "qwen2-vl": (
        "Qwen2VLConfig",
        {
            "text_config": _TEXT | {"rope_parameters": _ROPE},
            "vision_config": {**_VISION, "embed_dim": 32},
        },
    ),
    "qwen2.5-vl": (
        "Qwen2_5_VLConfig",
        {
            "text_config": _TEXT | {"rope_parameters": _ROPE},
            "vision_config": {
                **_VISION, "intermediate_size": 48, "out_hidden_size": 32,
                "fullatt_block_indexes": [0],
            },
        },
    ),
    "gpt2": ("GPT2Config", {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4}),
}  # fmt: skip


def chat_tokenizer(template: str | dict[str, str] | None = TEMPLATE) -> Any:
    """A byte-level BPE of 300 words that ends a turn with id 0."""
    return PreTrainedTokenizerFast(
        tokenizer_object=learn_bpe([TEXT], _SPECIAL),
        eos_token="<|end|>",
        additional_special_tokens=list(_SPECIAL[1:]),
        chat_template=template,
    )


def tiny_model(family: str, seed: int = 0, **differs: Any) -> PreTrainedModel:
    """A random model of a family in `CONFIGS`, of the class that loads it."""
    name, fields = CONFIGS[family]
    config = getattr(transformers, name)(**fields | differs)
    kind = transformers.AutoModelForCausalLM
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        kind = transformers.AutoModelForImageTextToText
    torch.manual_seed(seed)
    model = kind.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:  # biases and norms, which start at 0 or 1, hide what is left out
                weight.add_(torch.randn_like(weight) * 0.2)
    return model


def write_gemma3(path: Path) -> PreTrainedModel:
    """A GGUF of a tiny random Gemma 3, whose words are single letters and "an"; the model."""
    import gguf

    # Only each sixth layer looks at all of the text: a GGUF file leaves that to the reader.
    model = tiny_model("gemma3-text", layer_types=["sliding_attention"] * 2)
    config = model.config
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["full_attention"]["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)
    writer.add_sliding_window(config.sliding_window)
    writer.add_vocab_size(config.vocab_size)
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "\n", "▁"]
    words += [chr(letter) for letter in range(33, 127)] + ["an"]
    kinds = [gguf.TokenType.CONTROL] * 6 + [gguf.TokenType.NORMAL] * (len(words) - 6)
    padding = config.vocab_size - len(words)
    words += [f"<unused{number}>" for number in range(padding)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words)
    writer.add_token_scores([0.0] * len(words))
    writer.add_token_types([int(k) for k in kinds] + [int(gguf.TokenType.CONTROL)] * padding)
    for number, add in enumerate(
        (writer.add_pad_token_id, writer.add_eos_token_id, writer.add_bos_token_id)
    ):
        add(number)
    writer.add_eot_token_id(5)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name != "lm_head.weight":
            stored = weight + 1 if name.endswith("norm.weight") else weight
            title = names.get_name(name, try_suffixes=(".weight",))
            assert title is not None
            writer.add_tensor(title, stored.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config.rope_parameters["full_attention"] |= {"rope_type": "linear", "factor": 8.0}
    scaled = type(model)(config).eval()
    scaled.load_state_dict(model.state_dict())
    return scaled
