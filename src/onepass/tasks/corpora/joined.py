"""Several corpora as one, for one task."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onepass.tasks.corpora.reader import Corpus, has_split
from onepass.tasks.corpora.source import SPLITS
from onepass.tasks.corpora.splits import digest, without
from onepass.tasks.example import Example
from onepass.tasks.task import Task


@dataclass(frozen=True)
class Joined:
    """The examples of several corpora, each under a word that is put before its ids.

    They come in an order drawn by their ids, so that the first so many are a fair sample of all.
    What stands in a later split of one of them is left out of the earlier splits of all. A corpus
    without a split adds nothing to it.
    """

    corpora: Mapping[str, Corpus]

    @property
    def name(self) -> str:
        return " and ".join(corpus.name for corpus in self.corpora.values())

    def splits(self) -> dict[str, list[str]]:
        """The splits there are, and which of the corpora have them."""
        found = {split: list(self._having(split)) for split in SPLITS}
        return {split: having for split, having in found.items() if having}

    def examples(self, task: Task, split: str, limit: int | None = None) -> list[Example]:
        """As `Corpus.examples`."""
        # Where no corpus has the split, the first says so.
        having = self.corpora if split == "all" else self._having(split) or self.corpora
        found = [
            replace(example, id=f"{word}/{example.id}")
            for word, corpus in having.items()
            for example in corpus.examples(task, split)
        ]
        for later in SPLITS[SPLITS.index(split) + 1 :] if split in SPLITS else ():
            for corpus in self._having(later).values():
                found = without(found, corpus.examples(task, later))
        return sorted(found, key=lambda example: digest(example.id))[:limit]

    def _having(self, split: str) -> dict[str, Corpus]:
        return {word: each for word, each in self.corpora.items() if has_split(each, split)}
