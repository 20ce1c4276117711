"""BPEs learnt from a few texts, as the tests' tiny models have them."""

import json
from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers


def learn_bpe(
    texts: Iterable[str], special: Sequence[str], vocab_size: int = 300, words: str | None = None
) -> Tokenizer:
    """words: what a text is split into first, as a pattern; by default as GPT-2 does."""
    tokenizer = Tokenizer(models.BPE())
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None)
    tokenizer.pre_tokenizer = bytes_
    if words is not None:
        split = pre_tokenizers.Split(Regex(words), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def learn_byte_fallback_bpe(texts: Iterable[str], special: Sequence[str]) -> Tokenizer:
    """As Gemma has it: "▁" for a space, letters, and the bytes of any letter that is not known."""

    def framed(model: models.BPE) -> Tokenizer:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        return tokenizer

    learner = framed(models.BPE())
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    words = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    tokenizer = framed(
        models.BPE(
            {word: number for number, word in enumerate(words)},
            [(one, other) for one, other in learnt["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer
