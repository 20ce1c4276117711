"""What a corpus is, and what most are made from: a source of rows and a reader of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.tasks.corpora.layouts import renamed
from onepass.tasks.corpora.row import Row
from onepass.tasks.corpora.source import SPLITS, Source
from onepass.tasks.corpora.splits import Part, digest, parts_of, taken, without
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
    `files.records`. `apart`: splits that a folder lacks are made (see `splits`), and an input that
    stands in a later split is left out of an earlier one. `open`: how a path in a layout of its own
    is opened, by name and path.
    """

    read: Callable[[Iterable[Row], Task], Iterable[tuple[str, Example]]]
    tasks: tuple[str, ...] = ()
    shuffled: bool = False
    quoted: bool = True
    apart: bool = False
    open: Callable[[str, Path], Source] | None = None


@dataclass(frozen=True)
class Rows:
    """A corpus of the rows of a source; `columns` as for `layouts.renamed`."""

    name: str
    reader: Reader
    source: Source
    columns: Mapping[str, str] = field(default_factory=dict)

    def rows(self, split: str) -> Iterable[Row]:
        """The rows of a split, or of "all", their columns renamed."""
        return renamed(self.source.rows(split), self.columns)

    def splits(self) -> dict[str, Part]:
        """The splits there are, and which rows they are."""
        return parts_of(self.source, self.reader.apart)

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
        parts = self.splits()
        found = self._part(task, parts.get(split, Part(split)))
        if self.reader.apart and split in SPLITS:
            for later in SPLITS[SPLITS.index(split) + 1 :]:
                if later in parts:
                    found = without(found, self._part(task, parts[later]))
        if not found:
            raise OnepassError(
                f"{self.name} has no examples of {task.name!r} for the split {split!r}; "
                + _why_none(self.rows("all"), task)
            )
        if self.reader.shuffled:
            found.sort(key=lambda example: digest(example.id))
        return found[:limit]

    def _part(self, task: Task, part: Part) -> list[Example]:
        return taken(unique(self.reader.read(self.rows(part.label), task)), part)


def has_split(corpus: Corpus, split: str) -> bool:
    """Whether a corpus has a split, or may have it: not all can tell."""
    splits = getattr(corpus, "splits", None)
    return splits is None or split in splits()


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
