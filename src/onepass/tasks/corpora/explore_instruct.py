"""Rewritings of Explore-Instruct (Wan et al. 2023, arXiv 2310.09168), written by a language model.

A row has "tone", "input" and "output". Its own wording of the "instruction" is not used: the task
has one. Rows of another tone ("other") are left out.
"""

from collections.abc import Iterable, Iterator

from onepass.tasks.corpora.reader import Reader
from onepass.tasks.corpora.row import Row
from onepass.tasks.example import Example
from onepass.tasks.task import Task

LAYOUT = '"tone", "input" and "output" (and "task" and "instruction", which are not used)'


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    for row in rows:
        if row.text("tone", LAYOUT) == task.name.partition(":")[2]:
            yield (
                row.where,
                Example(row.id, row.text("input", LAYOUT), (row.text("output", LAYOUT),)),
            )


_TONES = ("professional", "casual", "witty", "paraphrase")
EXPLORE_INSTRUCT = Reader(read, tuple(f"tone:{tone}" for tone in _TONES), apart=True)
