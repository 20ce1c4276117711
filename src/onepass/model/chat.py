"""How a prompt is put before a chat model, and where its answer ends, read from its tokenizer.

Every model states its own conversation format in its chat template; nothing here knows one. A
tokenizer without a template gets the system message and the prompt, each followed by a blank line,
and then the answer. A template that refuses or leaves out a system message gets it as the first
lines of the user message.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any, Literal
from weakref import WeakKeyDictionary

from jinja2 import TemplateError
from tokenizers import AddedToken

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
_IDS = {"tokenize": True, "return_dict": False}
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
    facts = _facts(tokenizer)
    chats = [_messages(facts, prompt, system) for prompt in prompts]
    ids: list[list[int]] = [[]] * len(prompts)
    plain, in_system = [], bool(facts.any_control.search(system))
    for row, prompt in enumerate(prompts):
        if in_system or facts.any_control.search(prompt):
            view = _view(tokenizer, facts, _spelt(facts, f"{system}\n{prompt}"))
            ids[row] = _apply(view, chats[row], sanitize_control_tokens=True, **_IDS)
        else:
            plain.append(row)
    if plain:
        found = _apply(tokenizer, [chats[row] for row in plain], **_IDS)
        for row, each in zip(plain, found, strict=True):
            ids[row] = each
    return ids


def prompt_text(tokenizer: Any, prompt: str, system: str = "") -> str:
    """The text whose ids `prompt_ids` gives, its control tokens spelt out."""
    if not tokenizer.chat_template:
        return f"{tokenizer.bos_token or ''}{_plain(prompt, system)}"
    return str(_apply(tokenizer, _messages(_facts(tokenizer), prompt, system)))


def conversation_ids(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation, given as role and content, up to where the next answer begins.

    Control tokens in it are plain text, as in `prompt_ids`. Raises `OnepassError` for an order of
    roles that the template refuses.
    """
    if not tokenizer.chat_template:
        ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        for each in messages:
            own = each["role"] == "assistant"
            ids += text_ids(tokenizer, [each["content"] + ("" if own else "\n\n")])[0]
            ids += [end_id(tokenizer)] if own else []
        return ids
    facts = _facts(tokenizer)
    if not facts.takes_system and messages[0]["role"] == "system" and len(messages) > 1:
        first, second, *rest = messages
        messages = [{**second, "content": f"{first['content']}\n\n{second['content']}"}, *rest]
    spelt = _spelt(facts, "\n".join(each["content"] for each in messages))
    view = _view(tokenizer, facts, spelt) if spelt else tokenizer
    found: list[int] = _apply(view, [*messages], sanitize_control_tokens=bool(spelt), **_IDS)
    return found


def text_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain `texts`, without any special token or other one that a template writes."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    ids: list[list[int]] = encoded["input_ids"]
    if not tokenizer.chat_template:
        return ids
    from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

    facts = _facts(tokenizer)
    for row, text in enumerate(texts):
        if facts.written.search(text):
            spelt = _spelt(facts, text)
            marked = mark_control_tokens(text, _any_of(spelt))
            ids[row] = encode_marked_chat(_view(tokenizer, facts, spelt), marked)
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
    """What is asked of a tokenizer once, since with thousands of added tokens it takes long."""

    key: tuple[int, Any]
    control: dict[str, int]
    """The added tokens, by content, that are special or that the template writes."""
    any_control: re.Pattern[str]
    """Finds any of them."""
    written: re.Pattern[str]
    """Finds those of them that are not special: `split_special_tokens` leaves them whole."""
    takes_system: bool
    """Whether the template prints a system message."""


_KNOWN: WeakKeyDictionary[Any, _Facts] = WeakKeyDictionary()


def _facts(tokenizer: Any) -> _Facts:
    key = (len(tokenizer), tokenizer.chat_template)
    known = _KNOWN.get(tokenizer)
    if known is None or known.key != key:
        with_system = _rendered(tokenizer, ("system", _SYSTEM), ("user", "x"))
        text = with_system + _rendered(tokenizer, ("user", "x"), ("assistant", "x"))
        if tokenizer.chat_template:
            text += str(tokenizer.get_chat_template())  # with what other turns would print
        control, plain = {}, []
        for number, token in tokenizer.added_tokens_decoder.items():
            if token.special or (token.content in text and not token.content.isspace()):
                control[token.content] = number
                if not token.special:
                    plain.append(token.content)
        known = _KNOWN[tokenizer] = _Facts(
            key, control, _any_of(control), _any_of(plain), _SYSTEM in with_system
        )
    return known


def _any_of(contents: Iterable[str]) -> re.Pattern[str]:
    """Finds any of the tokens, the longest where several begin."""
    # By their first two letters: of thousands, most begin alike, and most texts with "<" otherwise.
    groups: dict[str, list[str]] = {}
    for content in sorted(contents, key=len, reverse=True):
        groups.setdefault(content[:2], []).append(re.escape(content[2:]))
    longest = sorted(groups, key=len, reverse=True)
    branches = [f"{re.escape(begin)}(?:{'|'.join(groups[begin])})" for begin in longest]
    return re.compile("|".join(branches) or "(?!)")


def _spelt(facts: _Facts, text: str) -> set[str]:
    """The control tokens in a text; where several begin, the longest."""
    found, match = set(), facts.any_control.search(text)
    while match:
        found.add(match[0])
        match = facts.any_control.search(text, match.start() + 1)
    return found


@cache
def _view_class(kind: Any) -> Any:
    names = ("added_tokens_decoder", "added_tokens_encoder")
    return type(f"{kind.__name__}View", (kind,), dict.fromkeys(names))


def _view(tokenizer: Any, facts: _Facts, spelt: Iterable[str]) -> Any:
    """The tokenizer as if only the control tokens `spelt` had been added to it.

    transformers collects the added tokens, thousands of them, several times for each text that it
    sanitises, and builds patterns of them; only those that are in the text make a difference.
    """
    encoder = {content: facts.control[content] for content in spelt}
    decoder = {n: AddedToken(content, special=True) for content, n in encoder.items()}
    view = object.__new__(_view_class(tokenizer.__class__))
    view.__dict__ = {
        **tokenizer.__dict__, "added_tokens_decoder": decoder, "added_tokens_encoder": encoder,
    }  # fmt: skip
    return view


def _rendered(tokenizer: Any, *turns: tuple[str, str]) -> str:
    """The text of a conversation, given as roles and contents; empty if the template refuses it."""
    if not tokenizer.chat_template:
        return ""
    try:
        return str(_apply(tokenizer, [{"role": role, "content": text} for role, text in turns]))
    except OnepassError:
        return ""


def _messages(facts: _Facts, prompt: str, system: str) -> list[dict[str, str]]:
    if not system:
        return [{"role": "user", "content": prompt}]
    if not facts.takes_system:
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
