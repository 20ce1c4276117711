"""What came of a preparation, in numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onepass.prepare.filters import FILTERS
from onepass.prepare.labeller import FAILED, Identity
from onepass.tasks.task import Task

REASONS = ("duplicated", *FILTERS, FAILED)
"""Why something is left out: `duplicated` counts examples, the others labels."""

HEADER = ("set", "examples", "rows", "labels", *REASONS)


@dataclass(frozen=True)
class Set:
    """One task's split: `rows` of so many `examples`, with `labels` as targets.

    counts: what was left out, by reason. corpus: what the main-task examples are from.
    """

    task: Task
    split: str
    corpus: str
    examples: int
    rows: int
    labels: int
    counts: Mapping[str, int]

    @property
    def row(self) -> list[str]:
        """Below `HEADER`."""
        numbers = (self.examples, self.rows, self.labels, *(self.counts.get(r, 0) for r in REASONS))
        return [f"{self.task.name} {self.split}", *map(str, numbers)]


@dataclass(frozen=True)
class Prepared:
    """The `sets`, how many labels were newly `made` for them, and what made each part.

    dates: when labels were made, first and last, as 2026-11-25.
    """

    sets: Sequence[Set]
    made: int
    identities: Mapping[str, Identity]
    dates: tuple[str, str]
