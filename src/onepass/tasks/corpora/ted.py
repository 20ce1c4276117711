"""TED talks in many languages (Qi et al. 2018, arXiv 1804.06323): translations from English.

Upstream a row has a column per language, on the hub "translations" of languages and their texts. A
row without English or without the task's language is left out: it has no such translation. The
texts are tokenised ("I do n't") by the Moses tokenizer; its escapes ("&apos;") are undone here, its
spaces are not.
"""

import html
from collections.abc import Iterable, Iterator

from onepass.core.errors import OnepassError
from onepass.tasks.corpora.reader import Reader
from onepass.tasks.corpora.row import Row, clean
from onepass.tasks.example import Example
from onepass.tasks.task import Task

LAYOUT = (
    '"talk_name" and a column per language ("en", "es", ...), or "translations" with "language" '
    'and "translation"'
)
_MISSING = ("__NULL__", "_ _ NULL _ _")  # the second is the first, tokenised


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    for row in rows:
        sources, targets = _texts(row, "en"), _texts(row, task.name.partition(":")[2])
        if sources and targets:
            talk = row.fields.get("talk_name")
            meta = {"group": talk} if talk else {}
            yield row.where, Example(row.name, sources[0], tuple(targets), meta)


def _texts(row: Row, language: str) -> list[str]:
    """What a row has in a language: on the hub there may be several."""
    if "translations" not in row.fields:
        if language not in row.fields:
            raise row.wrong_layout(language, LAYOUT)
        found = [row.fields[language]]
    else:
        pairs = row.fields["translations"]
        try:
            both = zip(pairs["language"], pairs["translation"], strict=True)
            found = [text for code, text in both if code == language]
        except (TypeError, KeyError, ValueError) as error:
            raise OnepassError(
                f'{row.where}: "translations" must have as many in "language" as in "translation", '
                f"found {pairs!r:.60}"
            ) from error
    return [clean(html.unescape(text), language, row.where) for text in found if _there(text)]


def _there(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip()) and not any(m in text for m in _MISSING)


TED = Reader(read, ("translate:es", "translate:fr", "translate:de"), shuffled=True, quoted=False)
