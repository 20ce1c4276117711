"""ConvSumX (Chen et al. 2023, arXiv 2307.04018), its DialogSum half: summaries in other languages.

A row is an English conversation with its summary in English and in another language, both written
by people: the target of "summarize", and that of "summarize+translate:XX". A row without a summary
in the task's language is left out.
"""

from collections.abc import Iterable, Iterator

from onepass.tasks.corpora.reader import Reader
from onepass.tasks.corpora.row import Row
from onepass.tasks.example import Example
from onepass.tasks.task import Task

LAYOUT = '"dialogue", "summary_en", and a summary in another language ("summary_fr")'


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    language = task.name.partition(":")[2] or "en"
    for row in rows:
        text, column = row.text("dialogue", LAYOUT), f"summary_{language}"
        if not any(name.startswith("summary_") for name in row.fields):
            raise row.wrong_layout(column, LAYOUT)
        if column in row.given:
            yield row.where, Example(row.id, text, (row.text(column, LAYOUT),))


_TASKS = ("summarize", *(f"summarize+translate:{language}" for language in ("es", "fr", "de")))
DIALOGSUMX = Reader(read, _TASKS, apart=True)
