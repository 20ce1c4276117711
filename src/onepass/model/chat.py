"""How a prompt is put before a chat model, and where its answer ends, read from its tokenizer.

Every model states its own conversation format in its chat template; nothing here knows one. A
tokenizer without a template gets the system message and the prompt, each followed by a blank line,
and then the answer. A template that refuses or leaves out a system message gets it as the first
lines of the user message.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

from onepass.core.errors import OnepassError

PINNED = {"date_string": "26 Jul 2024"}
"""Template arguments, for servers too: some templates (Llama 3) print today's date unless they are
given one, and prompts must not change overnight."""
_DAY = date(2024, 7, 26)
# Other templates (SmolLM3) call a function for the date, which no argument can replace.
_CLOCK = "".join(
    f"|replace('{code}', '{_DAY:{code}}')" for code in map("%{}".format, "dBbYmyAajHMS")
)
_PIN = "{%- macro strftime_now(form) -%}{{ form" + _CLOCK + " }}{%- endmacro %}{{ '' }}"
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '\\n\\n' }}{% endfor %}"
)
"""What is done without a chat template, as a template: for programs that insist on one."""
_ANSWER = "ANSWER"
_SYSTEM = "SYSTEM"


def template_of(tokenizer: Any) -> Literal["chat", "plain"]:
    """What prompts are put into: the tokenizer's chat template, or plain blank lines."""
    return "chat" if tokenizer.chat_template else "plain"


def prompt_ids(tokenizer: Any, prompts: Sequence[str], system: str = "") -> list[list[int]]:
    """Token ids of each user message in `prompts`, up to where the answer begins.

    Control tokens that a user's text happens to spell are encoded as the plain text they are.
    """
    if not prompts:
        return []
    if not tokenizer.chat_template:
        first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        return [first + ids for ids in text_ids(tokenizer, [_plain(p, system) for p in prompts])]
    # transformers' own way is slow with thousands of added tokens, and only these texts need it.
    control = _facts(tokenizer).control
    spelt = [bool(control.search(system) or control.search(prompt)) for prompt in prompts]
    ids: list[list[int]] = [[]] * len(prompts)
    for sanitize in (False, True):
        rows = [row for row, found in enumerate(spelt) if found is sanitize]
        if rows:
            chats = [_messages(tokenizer, prompts[row], system) for row in rows]
            found = _apply(
                tokenizer, chats, tokenize=True, sanitize_control_tokens=sanitize, return_dict=False
            )
            for row, each in zip(rows, found, strict=True):
                ids[row] = each
    return ids


def prompt_text(tokenizer: Any, prompt: str, system: str = "") -> str:
    """The text whose ids `prompt_ids` gives, its control tokens spelt out."""
    if not tokenizer.chat_template:
        return f"{tokenizer.bos_token or ''}{_plain(prompt, system)}"
    return str(_apply(tokenizer, _messages(tokenizer, prompt, system)))


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
        text = str(_apply(tokenizer, turns, add_generation_prompt=False))
        _, printed, after = text.rpartition(_ANSWER)
        tail = tokenizer(after, add_special_tokens=False)["input_ids"]
        if printed and tail and tail[0] in tokenizer.added_tokens_decoder:
            return int(tail[0])
    if tokenizer.eos_token_id is None:
        raise OnepassError(
            "the tokenizer has no end-of-text token; set eos_token in tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


@dataclass(frozen=True)
class _Facts:
    """What is asked of a tokenizer once: `control` finds any added token that is not mere space;
    `takes_system` is whether its template prints a system message."""

    key: tuple[int, Any]
    control: re.Pattern[str]
    takes_system: bool


_KNOWN: WeakKeyDictionary[Any, _Facts] = WeakKeyDictionary()


def _facts(tokenizer: Any) -> _Facts:
    key = (len(tokenizer), tokenizer.chat_template)
    known = _KNOWN.get(tokenizer)
    if known is None or known.key != key:
        added = tokenizer.added_tokens_decoder.values()
        control = [t.content for t in added if t.special or not t.content.isspace()]
        pattern = re.compile("|".join(map(re.escape, control)) or "(?!)")
        known = _KNOWN[tokenizer] = _Facts(key, pattern, _takes_system(tokenizer))
    return known


def _takes_system(tokenizer: Any) -> bool:
    turns = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "x"}]
    try:
        return _SYSTEM in str(_apply(tokenizer, turns))
    except OnepassError:
        return False


def _messages(tokenizer: Any, prompt: str, system: str) -> list[dict[str, str]]:
    if not system:
        return [{"role": "user", "content": prompt}]
    if not _facts(tokenizer).takes_system:
        return [{"role": "user", "content": f"{system}\n\n{prompt}"}]
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt}]


def _plain(prompt: str, system: str) -> str:
    return f"{system}\n\n{prompt}\n\n" if system else f"{prompt}\n\n"


def _apply(tokenizer: Any, chats: Sequence[Any], **options: Any) -> Any:
    arguments = {"add_generation_prompt": True, "tokenize": False, **PINNED, **options}
    try:
        template = tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = _PIN + template
        return tokenizer.apply_chat_template(chats, chat_template=template, **arguments)
    except (TemplateError, TypeError, ValueError) as error:
        raise OnepassError(
            f"the chat template of the tokenizer fails ({error}); "
            "mend chat_template in the folder of the base"
        ) from error
