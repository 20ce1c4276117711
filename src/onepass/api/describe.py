"""What data are: rows, columns, splits, lengths, languages, and examples of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from onepass.model.load import load_skeleton, load_tokenizer
from onepass.tasks.corpora import layouts
from onepass.tasks.corpora.facts import checksum, data_files, facts_of, sizes
from onepass.tasks.corpora.reader import Rows, unique
from onepass.tasks.corpora.row import Row
from onepass.tasks.corpus import CORPORA, HUB, OWN
from onepass.tasks.data import corpus_of
from onepass.tasks.example import Example
from onepass.tasks.task import BARE, Task

SAMPLE = 1000
"""The most texts whose language is identified; they are spread evenly over the examples."""

SHOWN, LANGUAGES_SHOWN = 3, 5


@dataclass(frozen=True)
class Split:
    """A split: its `rows`, the `examples` they make by task, and whether so many are `expected`.

    The task is "any" for rows that name none.
    """

    name: str
    rows: int
    examples: Mapping[str, int]
    expected: str = ""


@dataclass(frozen=True)
class Lengths:
    """Lengths in tokens of a model."""

    median: int
    p95: int
    longest: int


@dataclass(frozen=True)
class Description:
    """What is known of data; a field is empty if it is unknown or does not apply.

    `facts` (name, value) and `files` (path, how its sha256 compares) are those of a named corpus.
    `splits` are as the files have them, `parts` says of each that is used which rows it is.
    `understood`: rows by layout. `lengths` are of "input" and "target", in tokens of `model`, whose
    `context` holds all but `too_long` examples; prompts come on top. `languages`: for input and
    target the share of texts in each language. `shown`: id, input and target of a few examples.
    """

    name: str
    facts: Sequence[tuple[str, str]] = ()
    files: Sequence[tuple[str, str]] = ()
    columns: Sequence[str] = ()
    understood: Mapping[str, int] = field(default_factory=dict)
    splits: Sequence[Split] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    model: str = ""
    context: int = 0
    too_long: int = 0
    lengths: Mapping[str, Lengths] = field(default_factory=dict)
    languages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    shown: Sequence[tuple[str, str, str]] = ()


def describe(
    data: Any, columns: Mapping[str, str] | None = None, model: str = "tiny"
) -> Description:
    """Describe a corpus by name, a file, a folder, a data set of the hub, or rows in memory.

    The name of a public corpus alone, such as "dialogsum", gives its facts and downloads nothing.
    `model` is the base whose tokens are counted. Raises `OnepassError` for a row that cannot be
    read, for an id that two rows have, and as `corpus_of` and `load_tokenizer` do.
    """
    kind, _, place = str(data).partition(":") if isinstance(data, str | Path) else ("", "", "")
    facts = facts_of(kind) if kind in CORPORA else None
    known = tuple(facts.lines()) if facts else ()
    if facts and not place:
        return Description(str(data), known)
    corpus = corpus_of(data, columns)
    if not isinstance(corpus, Rows):
        return Description(corpus.name, known)
    files: list[tuple[str, str]] = []
    if facts and not place.startswith(HUB):
        files = [(str(file), checksum(file, facts)) for file in data_files(Path(place))]
    names: dict[str, None] = {}
    understood: Counter[str] = Counter()
    splits: list[Split] = []
    examples: list[Example] = []
    for split in corpus.source.splits() or ["all"]:
        part = "all" if corpus.source.whole else split
        count = 0
        for row in corpus.source.rows(part):
            count += 1
            names |= dict.fromkeys(map(str, row.fields))
        if corpus.reader is OWN:
            rows = list(corpus.rows(part))
            by_task = _by_task(rows)
            understood.update(layout.name for row in rows if (layout := layouts.layout_of(row)))
        else:
            by_task = {
                task: unique(corpus.reader.read(corpus.rows(part), Task(task, prompt=BARE)))
                for task in corpus.reader.tasks
            }
        examples += chain.from_iterable(by_task.values())
        expected = (facts.rows or {}).get(split, []) if facts else []
        verdict = "as expected" if count in expected else f"differs from {sizes(expected)}"
        counts = {task: len(made) for task, made in by_task.items()}
        splits.append(Split(split, count, counts, verdict if expected else ""))
    parts = {split: str(part) for split, part in corpus.splits().items()}
    described = Description(
        corpus.name, known, files, tuple(names), dict(understood), splits, parts
    )
    return _measured(described, examples, model) if examples else described


def _by_task(rows: Sequence[Row]) -> dict[str, list[Example]]:
    found: dict[str, list[tuple[str, Example]]] = {}
    for row in rows:
        task = str(row.given.get("task", "any"))
        found.setdefault(task, []).extend(layouts.read([row], None))
    return {task: unique(examples) for task, examples in found.items()}


def _measured(described: Description, examples: Sequence[Example], model: str) -> Description:
    """The description with lengths, languages and a few of the examples."""
    tokenizer = load_tokenizer(model)
    context = getattr(load_skeleton(model).config, "max_position_embeddings", None) or 0
    texts = {"input": [e.input for e in examples], "target": [e.target for e in examples]}
    counts = {
        side: np.array([len(ids) for ids in tokenizer(found, add_special_tokens=False).input_ids])
        for side, found in texts.items()
    }
    few = examples[:: -(-len(examples) // SHOWN)]
    lengths = {
        side: Lengths(int(np.median(x)), int(np.percentile(x, 95)), int(x.max()))
        for side, x in counts.items()
    }
    return replace(
        described,
        model=model,
        context=context,
        too_long=int((counts["input"] + counts["target"] > context).sum()) if context else 0,
        lengths=lengths,
        languages={side: _languages(found) for side, found in texts.items()},
        shown=[(example.id, example.input, example.target) for example in few],
    )


@cache
def _identifier() -> Any:
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def _languages(texts: Sequence[str]) -> dict[str, float]:
    """The share of texts in each language, largest first, of at most `SAMPLE` with a letter."""
    sample = texts[:: -(-len(texts) // SAMPLE)]
    found = Counter(
        str(_identifier().classify(text)[0]) for text in sample if any(map(str.isalpha, text))
    )
    return {code: count / found.total() for code, count in found.most_common(LANGUAGES_SHOWN)}
