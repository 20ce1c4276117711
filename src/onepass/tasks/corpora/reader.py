"""What a corpus is, and what most are made from: a source of rows and a reader of them."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.tasks.corpora.layouts import renamed
from onepass.tasks.corpora.row import Row
from onepass.tasks.corpora.source import SPLITS, Source
from onepass.tasks.example import Example
from onepass.tasks.task import Task


class Corpus(Protocol):
    """A named source of examples."""

    @property
    def name(self) -> str: ...

    def examples(self, task: Task, split: str, limit: int | None = None) -> list[Example]:
        """The examples of `task` in `split`, the first `limit` of them where a limit is given.

        Their ids are unique. Raises `OnepassError` for an unknown split, and where the corpus has
        none for the task.
        """
        ...


@dataclass(frozen=True)
class Reader:
    """How rows are read as examples of `tasks`; of any task, if there are none.

    `read` yields a task's examples, each with its place. It raises `OnepassError` for a row of
    another layout, or with an empty text. Examples that must not fall into different splits (the
    turns of one conversation) share `meta["group"]`; without it those with the same input do.

    `shuffled`: neighbouring rows belong together (the turns of a conversation), so the examples
    come in an order drawn by their ids, and the first so many are a fair sample. `quoted`: as for
    `files.records`.
    """

    read: Callable[[Iterable[Row], Task], Iterable[tuple[str, Example]]]
    tasks: tuple[str, ...] = ()
    shuffled: bool = False
    quoted: bool = True


@dataclass(frozen=True)
class Rows:
    """A corpus of the rows of a source; `columns` as for `layouts.renamed`."""

    name: str
    reader: Reader
    source: Source
    columns: Mapping[str, str] = field(default_factory=dict)

    def rows(self, split: str) -> list[Row]:
        """The rows of a split, or of "all", their columns renamed."""
        return renamed(self.source.rows(split), self.columns)

    def examples(self, task: Task, split: str, limit: int | None = None) -> list[Example]:
        """As `Corpus.examples`; the split "all" is everything. One file alone is split here."""
        if split not in (*SPLITS, "all"):
            raise unknown("split", split, [*SPLITS, "all"])
        if self.reader.tasks and task.name not in self.reader.tasks:
            has = " and ".join(map(repr, self.reader.tasks))
            raise OnepassError(
                f"{self.name} has targets for {has} only, not for {task.name!r}; for other tasks "
                "give rows of your own"
            )
        shared = self.source.whole and split != "all"
        rows = self.rows("all" if shared else split)
        found = unique(self.reader.read(rows, task))
        if shared:
            found = _share(found, split)
        if not found:
            raise OnepassError(
                f"{self.name} has no examples of {task.name!r} for the split {split!r}; "
                + _why_none(rows, task)
            )
        if self.reader.shuffled:
            found.sort(key=lambda example: _digest(example.id))
        return found[:limit]


def unique(found: Iterable[tuple[str, Example]]) -> list[Example]:
    """The examples of a reader; an `OnepassError` naming both places if two have one id."""
    places: dict[str, str] = {}
    examples = []
    for where, example in found:
        if example.id in places:
            raise OnepassError(
                f"{where}: the id {example.id!r} is also that of {places[example.id]}; give each "
                "example an id of its own"
            )
        places[example.id] = where
        examples.append(example)
    return examples


def _why_none(rows: Iterable[Row], task: Task) -> str:
    named = dict.fromkeys(str(row.given["task"]) for row in rows if "task" in row.given)
    if named and task.name not in named:
        few = ", ".join(list(named)[:5])
        return f'its column "task" names {few}; --columns task= leaves that out'
    return "give more examples, or a folder with one file per split"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _group(example: Example) -> str:
    return str(example.meta.get("group", example.input))


def _share(examples: list[Example], split: str) -> list[Example]:
    """The 80/10/10 share of `examples`, by groups ranked by a hash: no group is in two splits.

    Ranked, not cut at a hash value, so that three groups are enough for every split to have one.
    """
    groups = sorted({_group(example) for example in examples}, key=_digest)
    held_out = max(1, len(groups) // 10) if len(groups) >= len(SPLITS) else 0
    shares = {
        "train": groups[2 * held_out :],
        "validation": groups[:held_out],
        "test": groups[held_out : 2 * held_out],
    }
    chosen = set(shares[split])
    return [example for example in examples if _group(example) in chosen]
