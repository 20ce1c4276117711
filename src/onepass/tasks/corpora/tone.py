"""Sentences with their rewritings, one column per tone.

"text" is the sentence; "professional", "casual", "witty" and "paraphrase" are its rewritings, any
of which may be missing or blank, and one may be a list of several. "id" where present.
"""

from collections.abc import Iterable, Iterator

from onepass.tasks.corpora import layouts
from onepass.tasks.corpora.reader import Reader
from onepass.tasks.corpora.row import Row
from onepass.tasks.example import Example
from onepass.tasks.task import Task

_TONES = ("professional", "casual", "witty", "paraphrase")
LAYOUT = '"text" and any of ' + ", ".join(f'"{tone}"' for tone in _TONES)


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    tone = task.name.partition(":")[2]
    for row in rows:
        text = row.text("text", LAYOUT)
        if not any(column in row.fields for column in _TONES):
            raise row.wrong_layout(tone, LAYOUT)
        if tone in row.given:
            pair = {"id": row.fields.get("id"), "input": text, "target": row.fields[tone]}
            yield from layouts.read([row._replace(fields=pair)], task)


TONE = Reader(read, tuple(f"tone:{tone}" for tone in _TONES))
