"""Named sources of examples, each with a train, a validation and a test split.

A corpus is given by name:

- "smalltown", the embedded one;
- "KIND:PATH", a file or folder with the rows of a known layout, such as "dialogsum:PATH"; the
  kinds are those of `CORPORA`;
- "KIND" alone, the hub's copy of it, and "KIND:hub:OWNER/NAME" or "KIND:hub:OWNER/NAME@REVISION",
  another one, both downloaded and cached;
- PATH, a file or folder of rows in one of the layouts of `onepass.tasks.corpora.layouts`, and
  "hub:OWNER/NAME", such rows of the hub.

A PATH is a file (.jsonl, .json, .csv, .tsv, .parquet) or a folder. In a folder the name of a file
says its split (train.jsonl, dialogsum.dev.jsonl, data/train-00000-of-00001.parquet); files in it
come before those of the folders in it. A folder without such files, or with a README.md that has
`configs:`, is read as the hub would. One file alone is split here, 80/10/10, by a hash of the
input: the same on every machine and in every format, whatever the order of its rows, and never with
one input, one conversation or one talk in two splits. Some kinds make the splits that a folder
lacks, see `onepass.tasks.corpora.splits`.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.files import write_jsonl
from onepass.core.registry import Registry, unknown
from onepass.tasks.corpora import layouts
from onepass.tasks.corpora.chitchat import CHITCHAT
from onepass.tasks.corpora.cocoa_mt import COCOA_MT
from onepass.tasks.corpora.dialogsum import DIALOGSUM
from onepass.tasks.corpora.dialogsumx import DIALOGSUMX
from onepass.tasks.corpora.explore_instruct import EXPLORE_INSTRUCT
from onepass.tasks.corpora.facts import facts_of
from onepass.tasks.corpora.files import ENDINGS
from onepass.tasks.corpora.joined import Joined
from onepass.tasks.corpora.parallel import NTREX, PUD, TATOEBA
from onepass.tasks.corpora.persona_chat import PERSONA_CHAT
from onepass.tasks.corpora.reader import Corpus, Reader, Rows
from onepass.tasks.corpora.register import REGISTER
from onepass.tasks.corpora.source import SPLITS, one_file, open_hub, open_path
from onepass.tasks.corpora.ted import TED
from onepass.tasks.corpora.tone import TONE
from onepass.tasks.example import Example
from onepass.tasks.task import Task

__all__ = [
    "CORPORA",
    "HUB",
    "OWN",
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


OWN = Reader(layouts.read)
"""How rows of one's own are read."""


def load_corpus(name: str | Sequence[str], columns: Mapping[str, str] | None = None) -> Corpus:
    """The corpus called `name`; see the module's first lines for what a name may be.

    Several names are one corpus of the examples of all, see `Joined`. `columns` says which columns
    of one's own rows are input, target, id, task or messages: {"input": "dialogue"}.

    Raises `OnepassError` for an unknown name and a path that does not exist. Files and the hub are
    read when examples are asked for.
    """
    if not isinstance(name, str):
        return _joined([load_corpus(each, columns) for each in name])
    kind, _, rest = name.partition(":")
    if kind in CORPORA:
        if columns:
            raise OnepassError(
                f"corpus {name!r} has columns of its own; give --columns with others"
            )
        return CORPORA.get(kind)(name, rest)
    if name.startswith(HUB):
        return Rows(name, OWN, open_hub(name, rest), columns or {})
    path = Path(name)
    if path.suffix.lower() in ENDINGS or os.path.exists(path):
        return Rows(name, OWN, open_path(name, path), columns or {})
    raise OnepassError(
        f"{unknown('corpus', name, list(CORPORA))}; or give {HUB}OWNER/NAME, or a file "
        f"({', '.join(ENDINGS)}) or folder that exists"
    )


def _joined(corpora: Sequence[Corpus]) -> Corpus:
    """Several corpora as one; of one it is that one."""
    if len(corpora) == 1:
        return corpora[0]
    words: dict[str, Corpus] = {}
    for corpus in corpora:
        kind = corpus.name.partition(":")[0]
        word = kind if kind in CORPORA else Path(corpus.name).stem
        several = [word, *(f"{word}-{number}" for number in range(2, len(corpora) + 1))]
        words[next(each for each in several if each not in words)] = corpus
    return Joined(words)


def corpus_seen_from(folder: Path, name: str) -> str:
    """The corpus name `name` with its path, if it has one, taken as relative to `folder`."""
    kind, _, rest = name.partition(":")
    if name.startswith(HUB):
        return name
    if kind not in CORPORA:
        return str(folder / Path(name).expanduser())
    if not rest or rest.startswith(HUB):
        return name
    return f"{kind}:{folder / Path(rest).expanduser()}"


def read_examples(path: Path, task: Task) -> list[Example]:
    """The examples of `task` in a file of one's own rows.

    `OnepassError`, naming the place, for a row that is broken or lacks a text.
    """
    return [example for _, example in layouts.read(one_file(path).rows("all"), task)]


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


def _rows(reader: Reader, name: str, rest: str) -> Corpus:
    if rest.startswith(HUB):
        return Rows(name, reader, open_hub(name, rest.removeprefix(HUB), reader.quoted))
    if rest:
        path = Path(rest)
        opened = reader.open(name, path) if reader.open else open_path(name, path, reader.quoted)
        return Rows(name, reader, opened)
    hub = facts_of(name.rstrip(":")).hub
    if hub is None:
        raise OnepassError(
            f"corpus {name!r} has no public copy; give {name}:PATH or {name}:{HUB}OWNER/NAME"
        )
    return Rows(name, reader, open_hub(name, hub, reader.quoted))


for _name, _reader in {
    "chitchat": CHITCHAT,
    "cocoa-mt": COCOA_MT,
    "dialogsum": DIALOGSUM,
    "dialogsumx": DIALOGSUMX,
    "explore-instruct": EXPLORE_INSTRUCT,
    "ntrex": NTREX,
    "persona-chat": PERSONA_CHAT,
    "pud": PUD,
    "register": REGISTER,
    "tatoeba": TATOEBA,
    "ted": TED,
    "tone": TONE,
}.items():
    CORPORA.add(_name, partial(_rows, _reader))
