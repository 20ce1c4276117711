"""Tiny translation models with random weights, in the layouts of OPUS-MT, NLLB and M2M100."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    NllbTokenizer,
    PreTrainedTokenizerFast,
)

from bpe import learn_bpe
from onepass.model.quiet import quiet

SMALL = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "init_std": 0.6,
}
TEXT = "Ana and Ben meet at noon. They will have tea at the harbour, and Cleo brings the cake."


def save_marian(folder: Path, languages: tuple[str, ...] = (), positions: int = 64) -> Path:
    """One pair of languages; or several, told by tokens such as ">>es<<" before the text."""
    special = ["</s>", "<pad>", *(f">>{language}<<" for language in languages)]
    tokenizer = learn_bpe([TEXT], special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 0)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=special[2:],
        model_max_length=positions,
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=len(wrapped),
        max_position_embeddings=positions,
        eos_token_id=0,
        pad_token_id=1,
        decoder_start_token_id=1,
        **SMALL,
    )
    _save(MarianMTModel(config), folder)
    return folder


def save_nllb(folder: Path, positions: int = 64) -> Path:
    """Every language by its code, NLLB's own tokenizer class with a small vocabulary."""
    letters = sorted(
        {*TEXT, *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"} - {" "}
    )
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "▁": 4}
    for letter in letters:
        vocabulary[letter] = len(vocabulary)
    tokenizer = NllbTokenizer(
        vocab=vocabulary,
        merges=[],
        extra_special_tokens=["eng_Latn", "spa_Latn", "fra_Latn", "deu_Latn"],
        model_max_length=positions,
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = M2M100Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
        eos_token_id=2,
        pad_token_id=1,
        bos_token_id=0,
        decoder_start_token_id=2,
        **SMALL,
    )
    _save(M2M100ForConditionalGeneration(config), folder)
    return folder


def _save(model: Any, folder: Path) -> None:
    # Random weights would never end; this makes the end likelier with every token.
    model.generation_config.exponential_decay_length_penalty = (4, 1.4)
    with quiet():
        model.save_pretrained(folder)
