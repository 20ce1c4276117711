"""Where in the tokens of a prompt activated adapters begin to act.

An activated task's prompt is the text, then an invocation that is the same for every text, then
what the chat template adds. The tokens before the invocation are read by the bare base.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from onepass.core.errors import OnepassError
from onepass.model.chat import prompt_ids
from onepass.tasks.task import Task

_TEXTS = ("Ana: Tea at five?\nBen: Yes!", "1. ¿Qué tal? (Zoë)", "東京 *", "[ok]")


@dataclass(frozen=True)
class Activation:
    """What activated adapters act on in every prompt of a task, besides the answer.

    tail: the last ids of each prompt, which are the same for all texts. invocation: the first of
    them, those of the task's `activate`: what PEFT and llama.cpp look for from the end of a prompt.
    """

    tail: tuple[int, ...]
    invocation: tuple[int, ...]

    def start(self, ids: list[int]) -> int:
        """Where the adapters begin to act in the ids of a prompt."""
        found = len(ids) - len(self.tail)
        if tuple(ids[found:]) != self.tail:
            raise OnepassError(
                "the tokenizer joins the end of this text and what follows it; begin the words of "
                "the prompt after {text} with an empty line"
            )
        if found == 0:
            raise OnepassError(
                "there is nothing before the words that adapters act from, so nothing to read "
                "once; begin the prompt with {text} and an empty line"
            )
        return found


def activation_of(tokenizer: Any, task: Task) -> Activation:
    """Where adapters of an activated task begin to act.

    Raises:
        OnepassError: `activate` does not stand after the text, or does several times; or the
            tokenizer joins its beginning or end with what stands around it.
    """
    known = _KNOWN.setdefault(tokenizer, {})
    key = (task.prompt, task.instruction, task.system, task.activate, tokenizer.chat_template)
    if key not in known:
        known[key] = _found(tokenizer, task)
    return known[key]


def invocation_of(tokenizer: Any, task: Task) -> tuple[int, ...]:
    """The ids that adapters for the task act from; () for an ordinary one. Errors as above."""
    return activation_of(tokenizer, task).invocation if task.activate else ()


_KNOWN: WeakKeyDictionary[Any, dict[tuple[Any, ...], Activation]] = WeakKeyDictionary()


def _found(tokenizer: Any, task: Task) -> Activation:
    mark = task.activate
    rows = prompt_ids(tokenizer, [task.message(text) for text in _TEXTS], task.system)
    ids = rows[0]

    @cache
    def text_to(end: int) -> str:
        return str(tokenizer.decode(ids[:end], clean_up_tokenization_spaces=False))

    whole = text_to(len(ids))
    behind = whole.rfind(_TEXTS[0]) + len(_TEXTS[0])
    times = whole.count(mark, behind)
    if times != 1:
        raise OnepassError(
            f"task {task.name!r} acts from {mark!r} on, which its prompt has "
            f"{f'{times} times' if times else 'nowhere'} after the text; choose words that it "
            f"has once in {whole[behind:]!r:.200}"
        )
    begin = whole.find(mark, behind)
    starts = [end for end in range(len(ids)) if text_to(end) == whole[:begin]]
    ends = [end for end in range(len(ids) + 1) if text_to(end) == whole[: begin + len(mark)]]
    if not starts or not ends:
        joined = next(e for e in range(len(ids) + 1) if len(text_to(e)) > begin)
        raise OnepassError(
            f"task {task.name!r} acts from {mark!r} on, but the tokenizer joins it with what "
            f"stands around it, in the token {tokenizer.decode(ids[joined - 1])!r}; let activate "
            "be whole tokens, as a bracket or a word with the blank before it often are"
        )
    found = Activation(tuple(ids[starts[-1] :]), tuple(ids[starts[-1] : ends[0]]))
    for row in rows[1:]:
        found.start(row)
    return found
