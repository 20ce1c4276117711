"""Whether an output is in the register asked for: M-ACC of CoCoA-MT (arXiv 2205.04022).

An example has in `meta["register"]` the phrases that make its formal and its informal reference so.
A phrase is found in an output if all its words are, in any order, as in the authors' scorer. Unlike
there, words are apart from the punctuation around them, so that far fewer outputs are undecided;
and case does not count, except in German, where "Sie" is formal and "sie" is not.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from onepass.evaluate.metrics.metric import register
from onepass.tasks.example import Example
from onepass.tasks.task import Task

_OTHER = {"formal": "informal", "informal": "formal"}


def formality(
    predictions: Sequence[str], examples: Sequence[Example], task: Task
) -> list[float | None]:
    """1.0 for a phrase of the register asked for and none of the other, 0.0 the other way round.

    None where an output has phrases of both or of neither, and where the task asks for neither
    register or the example marks no phrases.
    """
    wanted = _wanted(task)
    return [
        _verdict(prediction, example, wanted, task.language) if _marked(example, wanted) else None
        for prediction, example in zip(predictions, examples, strict=True)
    ]


def decided(
    predictions: Sequence[str], examples: Sequence[Example], task: Task
) -> list[float | None]:
    """1.0 where `formality` is decided by the output, else 0.0; None where it does not apply."""
    wanted, verdicts = _wanted(task), formality(predictions, examples, task)
    return [
        float(verdict is not None) if _marked(example, wanted) else None
        for verdict, example in zip(verdicts, examples, strict=True)
    ]


def _wanted(task: Task) -> str:
    """The register that a task asks for; "" if none."""
    tones = (part.name.removeprefix("tone:") for part in task.parts)
    return next((tone for tone in tones if tone in _OTHER), "")


def _marked(example: Example, wanted: str) -> bool:
    phrases = example.meta.get("register")
    return bool(wanted and isinstance(phrases, dict) and any(phrases.get(key) for key in _OTHER))


def _verdict(text: str, example: Example, wanted: str, language: str | None) -> float | None:
    phrases, words = example.meta["register"], _words(text, language)
    found, other = (
        _holds(words, phrases.get(key, ()), language) for key in (wanted, _OTHER[wanted])
    )
    return None if found == other else float(found)


def _holds(words: set[str], phrases: Iterable[str], language: str | None) -> bool:
    wanted = (_words(phrase, language) for phrase in phrases)
    return any(each and each <= words for each in wanted)


def _words(text: str, language: str | None) -> set[str]:
    text = unicodedata.normalize("NFC", text)
    return set(re.findall(r"\w+", text if language == "de" else text.casefold()))


register("formality", "formality", formality)
register("formality_decided", "decided", decided)
