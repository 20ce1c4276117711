"""English sentences of Tatoeba, formal and casual: mostly without and with contractions.

A row has "formal" and "casual", each of which is the input of the task that asks for the other:
"tone:formal" rewrites the casual one; "tone:casual" and "tone:informal" the formal one.
"""

from collections.abc import Iterable, Iterator

from onepass.tasks.corpora.reader import Reader
from onepass.tasks.corpora.row import Row
from onepass.tasks.example import Example
from onepass.tasks.task import Task

LAYOUT = '"formal" and "casual" (and "kind", which is not used)'


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    for row in rows:
        formal, casual = row.text("formal", LAYOUT), row.text("casual", LAYOUT)
        text, target = (casual, formal) if task.name == "tone:formal" else (formal, casual)
        # So that a pair has one split, whichever way round it is.
        yield row.where, Example(row.id, text, (target,), {"group": formal})


REGISTER = Reader(
    read, ("tone:formal", "tone:informal", "tone:casual"), shuffled=True, quoted=False, apart=True
)
