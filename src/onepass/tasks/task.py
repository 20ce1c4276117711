"""What is done to a text: a task, as data; and several tasks at once.

A combination is written "a+b+c" and read left to right: at most one main task, which stands first,
then auxiliary tasks. What a combination asks for is made from its parts: the main task's
instruction, then the phrases of the others, languages first ("Summarize the conversation in Spanish
in a witty tone."). A declaration of the combination itself takes the place of any of that.

A task does not know where its examples come from.
"""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown

Role = Literal["main", "auxiliary"]

PROMPT = "{instruction}\n\n{text}"
"""The usual user message: what to do, an empty line, the text."""
MAX_NEW_TOKENS = 128
"""The longest answer, in tokens, to a task that does not state its own."""
ACTIVATED = "{text}\n\n[{instruction}]"
"""The usual user message of an activated task: first the text, then what to do, from "[" on."""
BARE = "{text}"
"""The message without an instruction: the text alone."""

_NAME = re.compile(r"\w[\w.:-]*(\+\w[\w.:-]*)*")


@dataclass(frozen=True, repr=False)
class Task:
    """A task by its `name`, such as "summarize", "translate:it" or "proofread+translate:it".

    Raises:
        OnepassError: a name or role there cannot be, a prompt without its text or with unknown
            fields, or a task that says nothing of what to do.
    """

    name: str
    instruction: str = ""
    """What is asked for, a sentence: "Summarize the conversation."."""
    role: Role = "main"
    phrase: str = ""
    """What the task adds to another one's instruction: "in Italian". Default: ", then ..."."""
    prompt: str = PROMPT
    """The user message, with {text} where the text goes and {instruction} where that is wanted.
    Literal braces are doubled."""
    system: str = ""
    """The system message, if there is one."""
    activate: str = ""
    """The words, once after the text in the prompt or in what the chat template adds to it, from
    which on activated adapters act ("["): what stands before is read by the bare base, once for all
    tasks. "" for a task whose adapters act on every token."""
    language: str | None = None
    """The ISO 639 code of the language that outputs are in; None if that of the text."""
    metric: str = "rougeL"
    """The name of the metric that outputs are judged by."""
    max_new_tokens: int | None = None
    """The longest answer, in tokens; None for no opinion."""
    criterion: str = ""
    """What an output must be, a sentence for a judge: "It is a summary of the conversation."."""
    composed_of: tuple["Task", ...] = ()
    """Of a combination, its single tasks in the order of its name."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise OnepassError(
                f"a task cannot be called {self.name!r}; use letters, digits and . : _ -, and + "
                "between the parts of a combination"
            )
        texts = ("instruction", "phrase", "prompt", "system", "activate", "metric", "criterion")
        for field in texts:
            value = getattr(self, field)
            if not isinstance(value, str):
                raise OnepassError(f"task {self.name!r}: {field} is {value!r:.60}; write a text")
        if self.role not in ("main", "auxiliary"):
            raise OnepassError(
                f"task {self.name!r}: role is {self.role!r}; write main or auxiliary"
            )
        if self.language is not None and not re.fullmatch(r"[a-z]{2,3}", str(self.language)):
            raise OnepassError(
                f"task {self.name!r}: language is {self.language!r}; write its ISO 639 code, such "
                "as it (quote no: YAML reads that word as false)"
            )
        longest = self.max_new_tokens
        if longest is not None and (type(longest) is not int or longest < 1):
            raise OnepassError(
                f"task {self.name!r}: max_new_tokens is {longest!r}; write a number of tokens"
            )
        used = _fields(self.name, self.prompt)
        if "instruction" in used and not self.instruction.strip():
            raise OnepassError(
                f"task {self.name!r} says nothing of what to do; give an instruction, or a prompt "
                "with {text} in it"
            )
        if self.message("").count(self.activate) > 1 and self.activate:
            raise OnepassError(
                f"task {self.name!r}: activate is {self.activate!r}, which its prompt has several "
                "times; choose words that it has once, after the text"
            )

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {self.instruction or self.prompt!r:.60})"

    @property
    def is_compositional(self) -> bool:
        return len(self.composed_of) > 1

    @property
    def parts(self) -> tuple["Task", ...]:
        """The single tasks it is made of, in the order of its name: itself, if it is one."""
        return self.composed_of or (self,)

    @property
    def main(self) -> "Task | None":
        """The main task among the parts, if there is one."""
        return self.parts[0] if self.parts[0].role == "main" else None

    @property
    def auxiliaries(self) -> tuple["Task", ...]:
        return tuple(part for part in self.parts if part.role == "auxiliary")

    def __add__(self, other: "Task") -> "Task":
        """Both at once: `summarize + italian`."""
        return combine([*self.parts, *other.parts])

    def longest(self, given: int | None = None) -> int:
        """The longest answer in tokens: what is given, or the task's own, or `MAX_NEW_TOKENS`."""
        return given if given is not None else self.max_new_tokens or MAX_NEW_TOKENS

    def activated(self) -> "Task":
        """The same task for activated adapters: itself, if it is one, or else with the text first.

        Raises `OnepassError` if its prompt is one of its own, which says where it begins itself.
        """
        if self.activate:
            return self
        if self.prompt != PROMPT:
            raise OnepassError(
                f"task {self.name!r} has the prompt {self.prompt!r:.60}, whose text may not stand "
                "first; write one that begins with {text}, and say with activate from which words "
                "on adapters act"
            )
        parts = tuple(part.activated() for part in self.composed_of)
        return replace(self, prompt=ACTIVATED, activate="[", composed_of=parts)

    def bare(self) -> "Task":
        """The same task with a prompt that is the text alone."""
        return replace(self, prompt=BARE, system="", activate="")

    def message(self, text: str) -> str:
        """The user message for a `text`."""
        return "".join(
            literal + {"text": text, "instruction": self.instruction, None: ""}[field]
            for literal, field, _, _ in string.Formatter().parse(self.prompt)
        )

    def to_json(self) -> dict[str, Any]:
        """What `task_from` reads back: the fields that are not their defaults, parts included."""
        found: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "composed_of":
                value = [part.to_json() for part in value]
            if value != field.default and value != []:
                found[field.name] = value
        return found


FIELDS = tuple(field.name for field in fields(Task))


def task_from(data: Any, where: str = "task") -> Task:
    """The task that a mapping of its fields describes; `where` it stands is named in errors."""
    if not isinstance(data, Mapping):
        raise OnepassError(f"{where}: a task is fields with values, found {data!r:.60}")
    for field in data:
        if field not in FIELDS:
            raise OnepassError(f"{where}: {unknown('field of a task', str(field), list(FIELDS))}")
    if "name" not in data:
        raise OnepassError(f"{where}: a task needs a name; found {', '.join(map(str, data))}")
    parts = data.get("composed_of", ())
    if not isinstance(parts, list | tuple):
        raise OnepassError(f"{where}: composed_of is {parts!r:.60}; it must be a list of tasks")
    composed = tuple(task_from(part, where) for part in parts)
    try:
        return Task(**{**data, "composed_of": composed})
    except OnepassError as error:
        raise OnepassError(f"{where}: {error}") from error


def combine(parts: Sequence[Task], **given: Any) -> Task:
    """The task that does all `parts` at once; `given` fields take the place of those made.

    Raises:
        OnepassError: a main task that is not first, or parts that no single output can satisfy:
            two of one family (the word before ":"), or two languages.
    """
    if len(parts) == 1 and not given:
        return parts[0]
    name = "+".join(part.name for part in parts)
    _check_parts(name, parts)
    # Languages first: "in Spanish in a witty tone".
    ordered = sorted(parts, key=lambda part: (part.role != "main", part.language is None))
    first, *others = ordered
    instruction = _joined(name, first, others, needed="instruction" not in given)
    usual = ACTIVATED if first.activate else PROMPT
    prompt = usual if "instruction" in given else first.prompt
    if "instruction" not in _fields(first.name, prompt) and "prompt" not in given:
        prompt += f"\n\n{_sentence(name, others)}"
    longest = [part.max_new_tokens for part in parts if part.max_new_tokens]
    made: dict[str, Any] = {
        "name": name,
        "instruction": instruction,
        "role": first.role,
        "prompt": prompt,
        "system": next((part.system for part in ordered if part.system), ""),
        "activate": "[" if first.activate and "instruction" in given else first.activate,
        "language": next((p.language for p in reversed(ordered) if p.language), None),
        "metric": first.metric,
        "max_new_tokens": max(longest, default=None),
        "composed_of": tuple(parts),
    }
    return Task(**{**made, **given})


def slug(name: str) -> str:
    """A task's name as a folder's: "summarize+translate-es"."""
    return name.replace(":", "-")


def _check_parts(name: str, parts: Sequence[Task]) -> None:
    active = [part.name for part in parts if part.activate]
    if active and len(active) < len(parts):
        ordinary = [part.name for part in parts if not part.activate]
        raise OnepassError(
            f"task {name!r}: {' and '.join(active)} act from certain words on, "
            f"{' and '.join(ordinary)} on the whole prompt; one pass does either"
        )
    late = [part.name for part in parts[1:] if part.role == "main"]
    if late:
        mains = [part.name for part in parts if part.role == "main"]
        raise OnepassError(
            f"task {name!r}: write one main task, and write it first; {' and '.join(mains)} "
            f"{'is a main task' if len(mains) == 1 else 'are main tasks'}"
        )
    families = {"language": [p.name for p in parts if p.role == "auxiliary" and p.language]}
    for part in parts:
        families.setdefault(part.name.partition(":")[0], []).append(part.name)
    for kind, chosen in families.items():
        if len(chosen) > 1:
            raise OnepassError(
                f"task {name!r}: one output has one {kind}, found {' and '.join(chosen)}; keep one"
            )


def _joined(name: str, first: Task, others: Sequence[Task], needed: bool) -> str:
    """The instruction of the first with the phrases of the others; "" where it has none."""
    if not first.instruction or not needed:
        return ""
    return first.instruction.strip().rstrip(".") + "".join(_clause(name, p) for p in others) + "."


def _sentence(name: str, others: Sequence[Task]) -> str:
    """The phrases alone, for a prompt that has no place for an instruction."""
    text = "".join(_clause(name, part) for part in others).lstrip(" ,")
    return text[:1].upper() + text[1:] + "."


def _clause(name: str, part: Task) -> str:
    if part.phrase:
        return f" {part.phrase.strip()}"
    said = part.instruction.strip().rstrip(".")
    if not said:
        raise OnepassError(
            f"task {name!r}: {part.name} has neither a phrase nor an instruction to put behind "
            "another task's; give it a phrase, such as 'in Italian', or declare the combination"
        )
    return f", then {said[:1].lower()}{said[1:]}"


def _fields(name: str, prompt: str) -> set[str]:
    """The fields of a prompt's template, checked."""
    try:
        pieces = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise OnepassError(
            f"task {name!r}: the prompt {prompt[:60]!r} is no template ({error}); double a brace "
            "that is meant as one"
        ) from error
    found = [field for _, field, _, _ in pieces if field is not None]
    for _, field, form, conversion in pieces:
        if field is not None and field not in ("text", "instruction"):
            raise OnepassError(
                f"task {name!r}: the prompt has the field {{{field}}}; there are {{text}} and "
                "{instruction}, and a brace that is meant as one is doubled"
            )
        if form or conversion:
            raise OnepassError(
                f"task {name!r}: the prompt formats {{{field}}}, which would change it; write "
                f"{{{field}}} alone"
            )
    if found.count("text") != 1:
        raise OnepassError(
            f"task {name!r}: the prompt has {{text}} {found.count('text')} times; it must stand "
            "there once, where the text goes"
        )
    return set(found)
