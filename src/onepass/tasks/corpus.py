"""Named sources of examples, each with a train, a validation and a test split.

A corpus is given by name:

- "smalltown", the embedded one;
- "KIND:PATH", a file or folder with the rows of a known layout: "dialogsum:PATH",
  "persona-chat:PATH", "ted:PATH", "tone:PATH";
- "KIND" alone, the hub's copy of it, and "KIND:hub:OWNER/NAME" or "KIND:hub:OWNER/NAME@REVISION",
  another one, both downloaded and cached by `datasets`;
- PATH, a file or folder of rows with "input" and "target" (or "targets").

A PATH may be a file of JSON lines (.jsonl), .csv, .tsv, .json or .parquet, or a folder. In a folder
the split of a .jsonl, .csv or .tsv file is told by its name (train.jsonl, dialogsum.dev.jsonl); if
it has no such files, those of the folders in it count. A folder without any, or with a README.md
that has `configs:`, is read as the hub would (data/train-00000-of-00001.parquet). One file alone is
split here, 80/10/10, by a hash of the input: the same on every machine, whatever the order of its
lines, and never with one input, one conversation or one talk in two splits.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.files import write_jsonl
from onepass.core.registry import Registry
from onepass.tasks.corpora.dialogsum import DIALOGSUM
from onepass.tasks.corpora.facts import facts_of
from onepass.tasks.corpora.kind import Corpus, Kind, Rows
from onepass.tasks.corpora.pairs import PAIRS
from onepass.tasks.corpora.persona_chat import PERSONA_CHAT
from onepass.tasks.corpora.source import SPLITS, OneFile, open_hub, open_path
from onepass.tasks.corpora.ted import TED
from onepass.tasks.corpora.tone import TONE
from onepass.tasks.example import Example
from onepass.tasks.task import Task

__all__ = [
    "CORPORA",
    "HUB",
    "SPLITS",
    "Corpus",
    "corpus_seen_from",
    "example_rows",
    "load_corpus",
    "read_examples",
    "write_examples",
]

HUB = "hub:"
"""What stands before the hub's OWNER/NAME in the place of a PATH."""


def load_corpus(name: str) -> Corpus:
    """The corpus called `name`; see the module's first lines for what a name may be.

    Raises `OnepassError` for an unknown name and a path that does not exist. Files and the hub are
    read when examples are asked for.
    """
    kind, _, rest = name.partition(":")
    if kind in CORPORA:
        return CORPORA.get(kind)(name, rest)
    path = Path(name)
    if path.suffix == ".jsonl" or os.path.exists(path):
        return Rows(name, PAIRS, open_path(name, path))
    forms = ", ".join(kind if kind == "smalltown" else f"{kind}:PATH" for kind in CORPORA)
    raise OnepassError(f"unknown corpus {name!r}: give {forms}, or the path of a .jsonl file")


def corpus_seen_from(folder: Path, name: str) -> str:
    """The corpus name `name` with its path, if it has one, taken as relative to `folder`."""
    kind, _, rest = name.partition(":")
    if kind not in CORPORA:
        return str(folder / Path(name).expanduser())
    if not rest or rest.startswith(HUB):
        return name
    return f"{kind}:{folder / Path(rest).expanduser()}"


def read_examples(path: Path, task: Task) -> list[Example]:
    """The examples of `task` in a file of rows with "input" and "target" (or "targets").

    `OnepassError`, naming the line, for one that is broken or lacks a text.
    """
    return [example for _, example in PAIRS.read(OneFile(path).rows("all"), task)]


def write_examples(path: Path | str, examples: Iterable[Example], task: Task | None = None) -> None:
    """Write what `read_examples` reads back as the same examples; `task` marks every line."""
    write_jsonl(path, example_rows(examples, task))


def example_rows(examples: Iterable[Example], task: Task | None = None) -> Iterator[dict[str, Any]]:
    """The JSON objects that `write_examples` writes."""
    for example in examples:
        row: dict[str, Any] = {"id": example.id, "input": example.input}
        if task is not None:
            row["task"] = task.name
        if len(example.targets) == 1:
            row["target"] = example.target
        else:
            row["targets"] = list(example.targets)
        if example.meta:
            row["meta"] = dict(example.meta)
        yield row


CORPORA: Registry[Callable[[str, str], Corpus]] = Registry("corpus")
"""What may stand before the ":" in a corpus name, with what makes the corpus: (name, rest)."""


def _rows(kind: Kind, name: str, rest: str) -> Corpus:
    if rest.startswith(HUB):
        return Rows(name, kind, open_hub(name, rest.removeprefix(HUB)))
    if rest:
        return Rows(name, kind, open_path(name, Path(rest)))
    hub = facts_of(name.rstrip(":")).hub
    if hub is None:
        raise OnepassError(
            f"corpus {name!r} has no public copy; give {name}:PATH or {name}:{HUB}OWNER/NAME"
        )
    return Rows(name, kind, open_hub(name, hub))


CORPORA.add("dialogsum", partial(_rows, DIALOGSUM))
CORPORA.add("persona-chat", partial(_rows, PERSONA_CHAT))
CORPORA.add("ted", partial(_rows, TED))
CORPORA.add("tone", partial(_rows, TONE))
