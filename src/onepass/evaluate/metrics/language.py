"""Whether an output is in the task's language, by py3langid (Lui and Baldwin 2012).

The identifier chooses among a few languages and the one wanted, since short texts are too easily
taken for a neighbour (Catalan, Dutch) that no task asks for.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from onepass.evaluate.metrics.metric import register
from onepass.tasks.example import Example
from onepass.tasks.task import Task

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

LANGUAGES = ("en", "es", "fr", "de")
"""The languages that are always told apart: the benchmark's."""


@cache
def _identifier(wanted: str) -> "LanguageIdentifier":
    identifier = _every_language()
    identifier.set_languages(sorted({*LANGUAGES, wanted}))
    return identifier


def identify(text: str, wanted: str = "en") -> str | None:
    """The likeliest of `LANGUAGES` and the one `wanted`; None for a text without a letter."""
    if not any(character.isalpha() for character in text):
        return None
    return str(_identifier(wanted).classify(text)[0])


def language(
    predictions: Sequence[str], examples: Sequence[Example], task: Task
) -> list[float | None]:
    """1.0 where the output is in the language of `task`, else 0.0; the examples do not matter.

    None where the task states no language, or one that the identifier does not know.
    """
    wanted = task.language
    if wanted is None or wanted not in _known():
        return [None] * len(predictions)
    return [float(identify(prediction, wanted) == wanted) for prediction in predictions]


@cache
def _known() -> frozenset[str]:
    return frozenset(_every_language().labels)


def _every_language() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


register("language", "language", language)
