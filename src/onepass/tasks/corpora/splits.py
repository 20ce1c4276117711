"""Which rows of a source are which split, where its files leave that open.

One file alone is split 80/10/10. Of a folder some corpora make the splits that it lacks: without a
test file the validation file is the test split, and validation is a tenth of train.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from onepass.tasks.corpora.source import SPLITS, Source
from onepass.tasks.example import Example


class Part(NamedTuple):
    """The rows that are a split: those of the `label`, or some of their groups.

    Groups are ranked by a hash; `start` and `end` count tenths of them. Ranked, not cut at a hash
    value, so that three groups are enough for every split to have one.
    """

    label: str
    start: int = 0
    end: int | None = None

    def __str__(self) -> str:
        rows = "all rows" if self.label == "all" else f"the {self.label} rows"
        if self == Part(self.label):
            return rows
        tenths = (10 if self.end is None else self.end) - self.start
        return f"{tenths}0 % of {rows}, by a hash of the input"


def parts_of(source: Source, completed: bool) -> dict[str, Part]:
    """The splits there are; `completed`: those that a folder with train rows lacks are made."""
    if source.whole:
        return {
            "train": Part("all", 2),
            "validation": Part("all", 0, 1),
            "test": Part("all", 1, 2),
        }
    labels = source.splits()
    parts = {split: Part(split) for split in labels}
    if completed and "train" in labels and len(labels) < len(SPLITS):
        if "validation" in labels:
            parts["test"] = Part("validation")
        parts |= {"train": Part("train", 1), "validation": Part("train", 0, 1)}
    return parts


def taken(examples: list[Example], part: Part) -> list[Example]:
    """The share of `examples` that a part is, in their order; no group is cut."""
    if part == Part(part.label):
        return examples
    groups = sorted({group_of(example) for example in examples}, key=digest)
    tenth = max(1, len(groups) // 10) if len(groups) >= len(SPLITS) else 0
    end = None if part.end is None else part.end * tenth
    chosen = set(groups[part.start * tenth : end])
    return [example for example in examples if group_of(example) in chosen]


def without(examples: list[Example], others: Sequence[Example]) -> list[Example]:
    """The examples with neither an input nor a group of the `others`."""
    seen = {key for other in others for key in _keys(other)}
    return [example for example in examples if not _keys(example) & seen]


def group_of(example: Example) -> str:
    return str(example.meta.get("group", example.input))


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _keys(example: Example) -> set[tuple[str, str]]:
    return {("input", example.input), ("group", group_of(example))}
