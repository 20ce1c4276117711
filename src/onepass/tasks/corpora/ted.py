"""TED talks in many languages (Qi et al. 2018, arXiv 1804.06323): translations from English.

Upstream a row has a column per language, on the hub "translations" of languages and their texts. A
row without English or without the task's language is left out: it has no such translation. The
texts are tokenised ("I do n't") by the Moses tokenizer; its escapes ("&apos;") are undone here, its
spaces are not.
"""

import html
from collections.abc import Iterable, Iterator, Mapping

from onepass.core.errors import OnepassError
from onepass.tasks.corpora.kind import Kind
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
        texts = _texts(row, ("en", task.language))
        source, target = texts.get("en"), texts.get(task.language)
        if not _there(source) or not _there(target):
            continue
        input_, output = (
            clean(html.unescape(str(text)), language, row.where)
            for language, text in (("en", source), (task.language, target))
        )
        talk = row.fields.get("talk_name")
        meta = {"group": talk} if talk else {}
        yield row.where, Example(row.name, input_, (output,), meta)


def _texts(row: Row, wanted: tuple[str, ...]) -> Mapping[str, object]:
    """The texts of a row by language, whichever its layout."""
    if "translations" not in row.fields:
        for language in wanted:
            if language not in row.fields:
                raise row.wrong_layout(language, LAYOUT)
        return row.fields
    pairs = row.fields["translations"]
    try:
        return dict(zip(pairs["language"], pairs["translation"], strict=True))
    except (TypeError, KeyError, ValueError) as error:
        raise OnepassError(
            f'{row.where}: "translations" must have as many in "language" as in "translation", '
            f"found {pairs!r:.60}"
        ) from error


def _there(text: object) -> bool:
    return isinstance(text, str) and bool(text.strip()) and not any(m in text for m in _MISSING)


TED = Kind(read, ("translate:es", "translate:fr", "translate:de"), shuffled=True)
