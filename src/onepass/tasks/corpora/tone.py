"""Sentences with their rewritings, one column per tone.

"text" is the sentence; "professional", "casual", "witty" and "paraphrase" are its rewritings, any
of which may be missing or empty; in JSON one may also be a list of several. "id" where present.
"""

from collections.abc import Iterable, Iterator

from onepass.tasks.benchmark import TONE_TASKS
from onepass.tasks.corpora.kind import Kind
from onepass.tasks.corpora.row import Row, clean
from onepass.tasks.example import Example
from onepass.tasks.task import Task

_COLUMNS = tuple(name.partition(":")[2] for name in TONE_TASKS)
LAYOUT = '"text" and any of ' + ", ".join(f'"{column}"' for column in _COLUMNS)


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    tone = task.name.partition(":")[2]
    for row in rows:
        text = row.text("text", LAYOUT)
        if not any(column in row.fields for column in _COLUMNS):
            raise row.wrong_layout(tone, LAYOUT)
        given = row.fields.get(tone)
        if given is None or given == [] or (isinstance(given, str) and not given.strip()):
            continue
        targets = given if isinstance(given, list) else [given]
        texts = tuple(clean(target, tone, row.where) for target in targets)
        yield row.where, Example(str(row.fields.get("id") or row.name), text, texts)


TONE = Kind(read, tuple(TONE_TASKS))
