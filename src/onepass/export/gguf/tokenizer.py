"""A byte-level BPE tokenizer as llama.cpp reads it.

llama.cpp splits a text into words by rules it knows by name (`tokenizer.ggml.pre`), and takes any
name for good: a wrong one tokenises differently, without a word. So the rules in the tokenizer's
own file decide the name, and rules that are not known are refused.
"""

import json
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.optional import optional
from onepass.model.load import Base

_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3, _QWEN2 = f"{_LETTERS}{{1,3}}{_REST}", f"{_LETTERS}{_REST}"

PRE_TOKENIZERS = {
    ("GPT-2", False): "gpt-2",
    ("GPT-2, digits apart", False): "smollm",
    (_LLAMA3, True): "llama-bpe",
    (_LLAMA3, False): "dbrx",
    (_QWEN2, False): "qwen2",
}
"""By the words' pattern, and whether a word in the vocabulary is taken whole, merges or not
(`ignore_merges`). "GPT-2" is the pattern built into byte-level pre-tokenizers; SmolLM2 splits off
each digit before it. StableLM 2's pattern is Qwen2's, and llama.cpp's names qwen2 and stablelm2
mean the same."""


UNICODE_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def add_tokenizer(writer: Any, base: Base) -> None:
    """Add the base's tokenizer and chat template to a `gguf.GGUFWriter`.

    Raises:
        OnepassError: it is no byte-level BPE, or splits words in a way that has no known name.
    """
    described = described_tokenizer(base)
    model = described["model"]
    types = optional("gguf", "device").TokenType
    rows = base.model.get_input_embeddings().weight.shape[0]
    # What the embedding has rows for and the vocabulary no words is padding.
    tokens = [f"[PAD{number}]" for number in range(rows)]
    kinds = [types.UNUSED] * rows
    for token, number in model["vocab"].items():
        if number < rows:  # no text and no prompt has those beyond: see `model.check`
            tokens[number], kinds[number] = token, types.NORMAL
    for added in described["added_tokens"]:
        if added["id"] >= rows:
            continue
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = types.CONTROL if added["special"] else types.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(described, base.name))
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind) for kind in kinds])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    _add_special(writer, base)
    if base.tokenizer.chat_template:
        writer.add_chat_template(base.tokenizer.chat_template)


def normalization(base: Base) -> str | None:
    """The Unicode form the tokenizer puts a text in, which llama.cpp does not: to be done before.

    Raises:
        OnepassError: it changes texts in another way too.
    """
    found = described_tokenizer(base)["normalizer"]
    if found is None:
        return None
    if found["type"] not in UNICODE_FORMS:
        raise OnepassError(
            f"the tokenizer of {base.name} normalises texts by {found['type']}, which llama.cpp "
            "does not; only Unicode normal forms can be done before it"
        )
    return str(found["type"])


def unicode_form(base: Base) -> str | None:
    """The Unicode form among the tokenizer's normalisations; llama.cpp does the others itself."""
    found = _backend_json(base).get("normalizer") or {}
    for step in [found, *found.get("normalizers", [])]:
        if step.get("type") in UNICODE_FORMS:
            return str(step["type"])
    return None


def pre_tokenizer(described: dict[str, Any], name: str) -> str:
    """llama.cpp's name for how the tokenizer of the base `name` splits words."""
    words = described["pre_tokenizer"] or {}
    steps = words.get("pretokenizers", [words])
    pattern = None
    match [step.get("type") for step in steps]:
        case ["ByteLevel"] if steps[0]["use_regex"] and not steps[0]["add_prefix_space"]:
            pattern = "GPT-2"
        case ["Digits", "ByteLevel"] if (
            steps[0]["individual_digits"]
            and steps[1]["use_regex"]
            and not steps[1]["add_prefix_space"]
        ):
            pattern = "GPT-2, digits apart"
        case ["Split", "ByteLevel"] if not (
            steps[1]["use_regex"] or steps[1]["add_prefix_space"] or steps[0]["invert"]
        ):
            if steps[0]["behavior"] == "Isolated":
                pattern = steps[0]["pattern"].get("Regex")
    found = PRE_TOKENIZERS.get((str(pattern), bool(described["model"].get("ignore_merges"))))
    if found is None:
        raise OnepassError(
            f"the tokenizer of {name} splits words in a way that llama.cpp is not known to have "
            f"(pre_tokenizer {json.dumps(words)[:120]}); GPT-2's, SmolLM2's, Llama 3's, "
            "Qwen2's and StableLM 2's are known"
        )
    return found


def described_tokenizer(base: Base) -> dict[str, Any]:
    """The content of the base's tokenizer.json; an `OnepassError` if it is no byte-level BPE."""
    described = _backend_json(base)
    model = described.get("model", {})
    plain = not any(
        model.get(field)
        for field in (
            "continuing_subword_prefix",
            "end_of_word_suffix",
            "byte_fallback",
            "dropout",
        )
    )
    if model.get("type") != "BPE" or not plain:
        raise OnepassError(
            f"the tokenizer of {base.name} is of type {model.get('type', 'unknown')}"
            f"{'' if plain else ' with byte fallback or affixes'}; "
            "only byte-level BPE tokenizers (GPT-2, SmolLM2, Llama 3, Qwen2, StableLM 2) "
            "can be exported"
        )
    return described


def _backend_json(base: Base) -> dict[str, Any]:
    backend = getattr(base.tokenizer, "backend_tokenizer", None)
    described: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
    return described


def _add_special(writer: Any, base: Base) -> None:
    tokenizer = base.tokenizer
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    # An engine has three places for tokens that end an answer, and stops at each of them.
    others = sorted(base.stop_ids - {base.end_id})
    places = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for place, token in zip(places, [base.end_id, *others], strict=False):
        place(token)
    with_special = tokenizer("x")["input_ids"]
    writer.add_add_bos_token(with_special[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(False)
