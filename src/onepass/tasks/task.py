"""What is done to a text: one task, or several at once.

A name is read left to right: at most one main task first, then auxiliary tasks, joined by "+", as
in "summarize+translate:es" or "reply+translate:fr+tone:witty". A task knows its instruction and its
metric; it does not know where data comes from.
"""

from dataclasses import dataclass

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown

LANGUAGES = ("en", "es", "fr", "de")
"""ISO 639-1 codes an output may be in; "en" is what conversations and plain tasks are in."""

TONES = ("plain", "professional", "casual", "witty", "paraphrase")
"""How an output may be worded; "plain" is the tone of a task that asks for none."""

LANGUAGE_NAMES = {"en": "English", "es": "Spanish", "fr": "French", "de": "German"}

MAIN_TASKS = ("summarize", "reply")
TRANSLATIONS = tuple(f"translate:{language}" for language in LANGUAGES[1:])
TONE_TASKS = tuple(f"tone:{tone}" for tone in TONES[1:])
AUXILIARY_TASKS = TRANSLATIONS + TONE_TASKS

SINGLE_TASKS = MAIN_TASKS + AUXILIARY_TASKS
"""The nine tasks that have an adapter each."""

COMPOSITIONAL_TASKS = tuple(
    f"{main}+{auxiliary}"
    for main in MAIN_TASKS
    for kind in (TRANSLATIONS, TONE_TASKS)
    for auxiliary in kind
)
"""The fourteen pairs of the benchmark, in the order of its table."""

_GROUPS = {
    ("summarize", "translate"): "sum_translation",
    ("summarize", "tone"): "sum_tone",
    ("reply", "translate"): "reply_translation",
    ("reply", "tone"): "reply_tone",
}
TASK_GROUPS = tuple(_GROUPS.values())
"""The four column groups of the benchmark's table."""


@dataclass(frozen=True)
class Task:
    """A task by its `name`; `parts` are its single tasks in order. Made by `parse_task`.

    Where it is not `instructed` a prompt does not say what to do: it is the text alone.
    """

    name: str
    parts: tuple[str, ...]
    instructed: bool = True

    @property
    def is_compositional(self) -> bool:
        return len(self.parts) > 1

    @property
    def main(self) -> str | None:
        """The main task among the parts, if there is one."""
        return self.parts[0] if self.parts[0] in MAIN_TASKS else None

    @property
    def auxiliaries(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if part in AUXILIARY_TASKS)

    @property
    def language(self) -> str:
        """The language of the output, one of `LANGUAGES`."""
        return self._value("translate", "en")

    @property
    def tone(self) -> str:
        """The tone of the output, one of `TONES`."""
        return self._value("tone", "plain")

    @property
    def instruction(self) -> str:
        """What the prompt asks for, one English sentence: language first, then tone; or ""."""
        if not self.instructed:
            return ""
        language = LANGUAGE_NAMES[self.language]
        manner = _manner(self.tone)
        if self.main is None and self.language == "en":
            if self.tone == "paraphrase":
                return "Paraphrase the text."
            return _sentence("Rewrite the text", manner)
        if self.main is None:
            return _sentence(f"Translate the text into {language}", manner)
        verb = {
            "summarize": "Summarize the conversation",
            "reply": "Suggest a reply to the conversation",
        }[self.main]
        return _sentence(verb, "" if self.language == "en" else f"in {language}", manner)

    @property
    def metric(self) -> str:
        """The name of the metric the literature reports for this task.

        ROUGE-L for summaries, weighted ROUGE for replies (Zhang et al. 2021, arXiv 2106.02017),
        chrF for translations, ROUGE-L for rewriting.
        """
        if self.main == "reply":
            return "weighted_rouge"
        if self.main is None and self.language != "en":
            return "chrf"
        return "rougeL"

    def _value(self, kind: str, default: str) -> str:
        values = (part.partition(":")[2] for part in self.parts if part.startswith(f"{kind}:"))
        return next(values, default)


def parse_task(name: str, instructed: bool = True) -> Task:
    """The task called `name`.

    Raises `OnepassError` for an unknown part (with near names), a main task that is not first, and
    for two languages or two tones, which no single output can have.
    """
    parts = tuple(part.strip() for part in name.split("+"))
    for part in parts:
        if part not in SINGLE_TASKS:
            raise unknown("task", part, list(SINGLE_TASKS))
    if any(part in MAIN_TASKS for part in parts[1:]):
        raise OnepassError(
            f"task {name!r}: write one main task, and write it first; "
            f"{' and '.join(MAIN_TASKS)} are main tasks"
        )
    for kind, group in (("language", TRANSLATIONS), ("tone", TONE_TASKS)):
        chosen = [part for part in parts if part in group]
        if len(chosen) > 1:
            raise OnepassError(
                f"task {name!r}: one output has one {kind}, found {' and '.join(chosen)}; keep one"
            )
    return Task("+".join(parts), parts, instructed)


def slug(name: str) -> str:
    """A task's name as a folder's: "summarize+translate-es"."""
    return name.replace(":", "-")


def task_group(task: Task) -> str | None:
    """The column group of the benchmark's table that holds `task`; None if none does."""
    if task.main is None or len(task.parts) != 2:
        return None
    return _GROUPS[task.main, task.parts[1].partition(":")[0]]


def _manner(tone: str) -> str:
    return {"plain": "", "paraphrase": "in your own words"}.get(tone, f"in a {tone} tone")


def _sentence(*words: str) -> str:
    return " ".join(word for word in words if word) + "."
