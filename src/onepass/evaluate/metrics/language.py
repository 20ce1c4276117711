"""Whether an output is in the task's language, by py3langid (Lui and Baldwin 2012).

The identifier chooses among the project's languages only, since short texts are too easily taken
for a neighbour (Catalan, Dutch) that no task asks for.
"""

from collections.abc import Sequence
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from onepass.evaluate.metrics.metric import register
from onepass.tasks.example import Example
from onepass.tasks.task import LANGUAGES, Task


@cache
def _identifier() -> LanguageIdentifier:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(LANGUAGES))
    return identifier


def identify(text: str) -> str | None:
    """The likeliest of `LANGUAGES`; None for a text without a letter."""
    if not any(character.isalpha() for character in text):
        return None
    return str(_identifier().classify(text)[0])


def language(predictions: Sequence[str], examples: Sequence[Example], task: Task) -> list[float]:
    """1.0 where the output is in the language of `task`, else 0.0; the examples do not matter."""
    return [float(identify(prediction) == task.language) for prediction in predictions]


register("language", "language", language)
