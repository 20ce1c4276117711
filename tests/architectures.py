"""Tiny random models of the three families of arXiv 2507.16083, in Hugging Face layout.

Each has its family's real configuration class and what sets it apart (Llama 3.2: scaled rotary
positions, tied embeddings, a begin-of-text token; Qwen2.5: biases on q, k and v, tied embeddings, a
system message of its own; StableLM 2: partial rotary positions, biases on q, k and v, LayerNorm,
untied embeddings, an end of turn that is not the end of text), a byte-level BPE with its family's
special tokens, and a chat template that prints what its family's does.

    python tests/architectures.py OUT [TEXT_FILE ...]

writes OUT/llama-3.2, OUT/qwen2.5 and OUT/stablelm-2, their tokenizers trained on the files.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from bpe import learn_bpe

TEXT = (
    "Ana: Shall we meet at noon? Ben: Yes, at the harbour. Summarize the conversation in Spanish. "
    "Suggest a reply to the conversation. Translate the text into Spanish."
)

_LLAMA_TEMPLATE = """\
{{- bos_token }}
{%- if date_string is not defined %}{% set date_string = "26 Jul 2024" %}{% endif %}
{%- if messages[0]["role"] == "system" %}
    {%- set system = messages[0]["content"] | trim %}{% set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {{- "<|start_header_id|>" + message["role"] + "<|end_header_id|>\\n\\n" }}
    {{- message["content"] | trim + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""
_IM_TEMPLATE = """\
{%- for message in messages %}
    {{- "<|im_start|>" + message["role"] + "\\n" + message["content"] + "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\\n" }}{% endif %}
"""
_QWEN_TEMPLATE = (
    """\
{%- if messages[0]["role"] != "system" %}
    {{- "<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n" }}
{%- endif %}
"""
    + _IM_TEMPLATE
)


@dataclass(frozen=True)
class Family:
    """What tells one family's folder from another's; `stops` end a generation."""

    config: Callable[..., Any]
    model: Callable[[Any], Any]
    differs: dict[str, Any]
    """Fields of the configuration that are not the same in all families."""
    template: str
    special: tuple[str, ...]
    tokens: dict[str, str]
    stops: tuple[str, ...]
    digits: str = "{1,3}"


FAMILIES = {
    "llama-3.2": Family(
        LlamaConfig,
        LlamaForCausalLM,
        {
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        _LLAMA_TEMPLATE,
        (
            "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
            "<|eom_id|>", "<|eot_id|>",
        ),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
    ),
    "qwen2.5": Family(
        Qwen2Config,
        Qwen2ForCausalLM,
        {
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        _QWEN_TEMPLATE,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ("<|im_end|>", "<|endoftext|>"),
        digits="",
    ),
    "stablelm-2": Family(
        StableLmConfig,
        StableLmForCausalLM,
        {
            "num_key_value_heads": 4,
            "tie_word_embeddings": False,
            "use_qkv_bias": True,
            "qk_layernorm": False,
            "use_parallel_residual": False,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
            },
        },
        _IM_TEMPLATE,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        ("<|endoftext|>",),
    ),
}  # fmt: skip


def build(
    name: str,
    folder: Path,
    texts: Sequence[str] = (TEXT,),
    vocab_size: int = 320,
    hidden: int = 32,
    layers: int = 2,
    context: int = 256,
    seed: int = 0,
) -> Path:
    """Write the model of a family with its tokenizer into `folder`; the folder.

    Four attention heads; a random model, of large enough weights that its logits differ clearly.
    """
    family = FAMILIES[name]
    tokenizer = _tokenizer(family, texts, vocab_size, context)
    tokenizer.save_pretrained(folder)
    stops = [tokenizer.convert_tokens_to_ids(token) for token in family.stops]
    config = family.config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=context,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **family.differs,
    )
    torch.manual_seed(seed)
    model = family.model(config)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path.endswith("proj.bias"):  # which start at 0, but are not in a trained model
                parameter.normal_(0.0, 0.1)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=stops, pad_token_id=stops[-1]
    )
    model.save_pretrained(folder)
    return folder


def _tokenizer(family: Family, texts: Sequence[str], vocab_size: int, context: int) -> Any:
    # As the three families do: words with the space before them, numbers apart, line ends apart.
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + family.digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )  # fmt: skip
    tokenizer = learn_bpe(texts, family.special, vocab_size, words)
    if family.tokens.get("bos_token") == "<|begin_of_text|>":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A",
            special_tokens=[
                ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>")),
            ],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        additional_special_tokens=[t for t in family.special if t not in family.tokens.values()],
        chat_template=family.template,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        **family.tokens,
    )


def main(out: str, *files: str) -> None:
    """Models of about a million parameters, with 2,000 words learnt from the files."""
    texts = [Path(file).read_text(encoding="utf-8") for file in files] or [TEXT]
    for name in FAMILIES:
        print(build(name, Path(out, name), texts, 2000, hidden=128, layers=4, context=2048))


if __name__ == "__main__":
    main(*sys.argv[1:])
