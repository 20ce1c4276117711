"""The main task's examples that compositional sets are made of, split by split."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.tasks.corpora import layouts
from onepass.tasks.corpora.reader import Corpus, Reader, Rows
from onepass.tasks.corpora.row import Row
from onepass.tasks.corpora.source import open_path
from onepass.tasks.corpus import CORPORA, load_corpus
from onepass.tasks.example import Example
from onepass.tasks.task import Task


@dataclass(frozen=True)
class Source:
    """The examples of one main task and split, no input twice; `duplicated` were left out."""

    main: str
    split: str
    corpus: str
    examples: tuple[Example, ...]
    duplicated: int


def read_sources(
    corpora: Sequence[str],
    mains: Sequence[Task],
    splits: Sequence[str],
    limit: int | None = None,
    labelled: bool = True,
) -> list[Source]:
    """The sources that `corpora` have for `mains`, in the order of mains and splits.

    Of an input in several splits only one is kept, that of test before validation before train, so
    that nothing one trains on is in a test. Raises `OnepassError` for a corpus that has none of the
    main tasks, and for two that have the same.
    """
    found = []
    serving = _serving(corpora, mains, splits[0], labelled)
    for main in mains:
        if main.name not in serving:
            continue
        name = serving[main.name]
        corpus = _corpus(name, labelled)
        seen: set[str] = set()
        by_split = {}
        for split in sorted(splits, key=_precedence):
            examples = corpus.examples(main, split, limit)
            kept = []
            for example in examples:
                text = " ".join(example.input.split())
                if text not in seen:
                    seen.add(text)
                    kept.append(example)
            by_split[split] = Source(main.name, split, name, tuple(kept), len(examples) - len(kept))
        found += [by_split[split] for split in splits]
    return found


def _serving(
    corpora: Sequence[str], mains: Sequence[Task], split: str, labelled: bool
) -> dict[str, str]:
    """Main task to the corpus that has it; main tasks that none has are left out."""
    serving: dict[str, str] = {}
    for name in corpora:
        corpus = _corpus(name, labelled)
        reasons = []
        for main in mains:
            try:
                corpus.examples(main, split, 1)
            except OnepassError as error:
                reasons.append(str(error))
                continue
            if main.name in serving:
                raise OnepassError(
                    f"both {serving[main.name]} and {name} have examples of {main}; give one of "
                    f"them, or prepare them in two folders"
                )
            serving[main.name] = name
        if len(reasons) == len(mains):
            raise OnepassError("; ".join(dict.fromkeys(reasons)))
    return serving


def _corpus(name: str, labelled: bool) -> Corpus:
    if labelled or name.partition(":")[0] in CORPORA or not Path(name).exists():
        return load_corpus(name)
    return Rows(name, Reader(read_inputs), open_path(name, Path(name)))


def read_inputs(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    """Yield rows that need no target, as examples whose only target is empty."""
    for where, id_, text, meta in layouts.read_inputs(rows, task):
        yield where, Example(id_, text, ("",), meta)


def _precedence(split: str) -> int:
    return ("test", "validation", "train").index(split)
