"""How a prompt is put before a chat model, and where its answer ends, read from its tokenizer.

Every model states its own conversation format in its chat template; nothing here knows one. A
tokenizer without a template gets the prompt, a blank line, and the answer.
"""

from collections.abc import Sequence
from typing import Any

from onepass.core.errors import OnepassError

# Some templates (Llama 3) print today's date unless told one: prompts must not change overnight.
PINNED = {"date_string": "26 Jul 2024"}
_ANSWER = "ANSWER"


def prompt_ids(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Token ids of each user message in `prompts`, up to where the answer begins.

    Control tokens that a user's text happens to spell are encoded as the plain text they are.
    """
    if not prompts:
        return []
    if not tokenizer.chat_template:
        first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return [first + ids for ids in text_ids(tokenizer, [f"{p}\n\n" for p in prompts])]
    ids: list[list[int]] = tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt}] for prompt in prompts],
        add_generation_prompt=True,
        sanitize_control_tokens=True,
        return_dict=False,
        **PINNED,
    )
    return ids


def prompt_text(tokenizer: Any, prompt: str) -> str:
    """The text whose ids `prompt_ids` gives, its control tokens spelt out."""
    if not tokenizer.chat_template:
        return f"{tokenizer.bos_token or ''}{prompt}\n\n"
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False, **PINNED
    )
    return text


def text_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain `texts`, without any special token."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def end_id(tokenizer: Any) -> int:
    """The token that ends an answer: the template's end of turn, otherwise the tokenizer's EOS.

    They differ in some models (StableLM 2 ends a turn with `<|im_end|>` and a text with
    `<|endoftext|>`); training must use the one that the chat format uses.
    """
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _ANSWER}]
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, **PINNED)
        tail = tokenizer(text.rpartition(_ANSWER)[2], add_special_tokens=False)["input_ids"]
        if tail and tail[0] in tokenizer.added_tokens_decoder:
            return int(tail[0])
    if tokenizer.eos_token_id is None:
        raise OnepassError(
            "the tokenizer has no end-of-text token; set eos_token in tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)
