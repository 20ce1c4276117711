"""Named sources of examples, each with a train, a validation and a test split.

A corpus is given by name: "smalltown" (embedded), "dialogsum:PATH", "persona-chat:PATH", or the
PATH of JSON lines with "input" and "target" (or "targets"). A PATH is one file or a folder. In a
folder the split of a file is told by its name (train.jsonl, dialogsum.dev.jsonl, test.csv). One
file alone is split here, 80/10/10, by a hash of the input: the same on every machine, whatever the
order of its lines, and never with one input in two splits.
"""

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from onepass.core.errors import OnepassError
from onepass.core.files import read_jsonl, read_text, write_jsonl
from onepass.core.registry import Registry, unknown
from onepass.tasks.example import Example
from onepass.tasks.task import Task

SPLITS = ("train", "validation", "test")

_SPLIT_WORDS = {
    "train": "train",
    "dev": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}


class Corpus(Protocol):
    """A named source of examples."""

    @property
    def name(self) -> str: ...

    def examples(self, task: Task, split: str, limit: int | None = None) -> list[Example]:
        """The examples of `task` in `split`, the first `limit` of them where a limit is given.

        Raises `OnepassError` for an unknown split, and where the corpus has none for the task.
        """
        ...


Reader = Callable[[Path, Task], list[Example]]
"""Reads what one file holds for a task; an `OnepassError` if it holds nothing for it."""


@dataclass(frozen=True)
class Files:
    """A corpus that is a file or a folder of files, read by `reader`."""

    name: str
    path: Path
    suffixes: tuple[str, ...]
    reader: Reader

    def examples(self, task: Task, split: str, limit: int | None = None) -> list[Example]:
        """As `Corpus.examples`; the split "all" is everything."""
        if split not in (*SPLITS, "all"):
            raise unknown("split", split, [*SPLITS, "all"])
        if self.path.is_dir():
            found = self._from_folder(task, split)
        else:
            found = self.reader(self.path, task)
            if split != "all":
                found = _share(found, split)
        if not found:
            raise OnepassError(
                f"{self.path} has no examples of {task.name!r} for the split {split!r}; "
                "give more examples, or a folder with one file per split"
            )
        return found[:limit]

    def _from_folder(self, task: Task, split: str) -> list[Example]:
        files = [
            file
            for file in sorted(self.path.iterdir())
            if file.suffix in self.suffixes and split in (_split_of(file), "all")
        ]
        if not files:
            endings = " or ".join(self.suffixes)
            raise OnepassError(
                f"{self.path} has no file for the split {split!r}; name one with {split!r} and "
                f"ending in {endings}, or give one file alone, which is split automatically"
            )
        return [example for file in files for example in self.reader(file, task)]


def load_corpus(name: str) -> Corpus:
    """The corpus called `name`; see the module's first lines for what a name may be."""
    kind, _, rest = name.partition(":")
    if kind in CORPORA and (rest or kind == "smalltown"):
        return CORPORA.get(kind)(name, rest)
    path = Path(name)
    if path.suffix == ".jsonl" or path.exists():
        return _files((".jsonl",), read_examples)(name, name)
    forms = ", ".join(kind if kind == "smalltown" else f"{kind}:PATH" for kind in CORPORA)
    raise OnepassError(f"unknown corpus {name!r}: give {forms}, or the path of a .jsonl file")


def read_examples(path: Path, task: Task) -> list[Example]:
    """JSON lines of {"input", "target" or "targets"}; also "id", "meta" and "task" where present.

    A line that names a "task" counts for that task only; other lines count for any.
    """
    found = []
    for number, row in read_jsonl(path):
        where = f"{path}, line {number}"
        if "task" in row and row["task"] != task.name:
            continue
        if ("target" in row) == ("targets" in row):
            raise OnepassError(f'{where}: give either "target" or "targets"')
        targets = row["targets"] if "targets" in row else [row["target"]]
        if not isinstance(targets, list) or not targets:
            raise OnepassError(f'{where}: "targets" must be a list of at least one text')
        texts = tuple(_text(target, "target", where) for target in targets)
        meta = row.get("meta", {})
        if not isinstance(meta, dict):
            raise OnepassError(f'{where}: "meta" must be an object, found {meta!r:.40}')
        id_ = str(row.get("id", f"{path.stem}-{number}"))
        found.append(Example(id_, _field(row, "input", where), texts, meta))
    return found


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


def read_dialogsum(path: Path, task: Task) -> list[Example]:
    """DialogSum (Chen et al. 2021, arXiv 2105.06762): English conversations with summaries.

    Reads the original JSON lines, whose test conversations have summary1 to summary3, and the CSV
    with one row per reference; rows of one conversation become one example.
    """
    if task.name != "summarize":
        raise _only(path, "summarize", task)
    rows = _csv_rows(path) if path.suffix == ".csv" else read_jsonl(path)
    inputs: dict[str, str] = {}
    targets: dict[str, list[str]] = {}
    for number, row in rows:
        where = f"{path}, line {number}"
        text = _field(row, "dialogue", where)
        fields = [key for key in row if re.fullmatch(r"summary\d*", key)]
        if not fields:
            raise OnepassError(f'{where}: no "summary"')
        inputs.setdefault(text, str(row.get("fname") or row.get("id") or f"{path.stem}-{number}"))
        targets.setdefault(text, []).extend(_field(row, key, where) for key in sorted(fields))
    return [Example(id_, text, tuple(targets[text])) for text, id_ in inputs.items()]


def read_persona_chat(path: Path, task: Task) -> list[Example]:
    """Synthetic-Persona-Chat (Jandaghi et al. 2023, arXiv 2312.10007): the last turn is the reply.

    Conversations with fewer than two turns that name their speaker are left out.
    """
    if task.name != "reply":
        raise _only(path, "reply", task)
    found = []
    for number, row in _csv_rows(path):
        text = _field(row, "Best Generated Conversation", f"{path}, line {number}")
        lines = [line for line in text.split("\n") if line.strip()]
        turns = [index for index, line in enumerate(lines) if _TURN.match(line)]
        if len(turns) < 2:
            continue
        said = [_TURN.sub("", lines[turns[-1]])]
        said += [line for line in lines[turns[-1] + 1 :] if not line.startswith(_STAGE_DIRECTION)]
        reply = "\n".join(said).strip(" *\n")
        if reply:
            conversation = "\n".join(lines[: turns[-1]])
            found.append(Example(f"{path.stem}-{number}", conversation, (reply,)))
    return found


# Some conversations of the set carry markup: "*User 1:* Hi", or "(Later)" on a line of its own.
_TURN = re.compile(r"^[\s*]*User [12]:\**\s*")
_STAGE_DIRECTION = ("(", "[", "*")


def _smalltown(_name: str, _rest: str) -> Corpus:
    from onepass.tasks.smalltown.corpus import Smalltown

    return Smalltown()


def _files(suffixes: tuple[str, ...], reader: Reader) -> Callable[[str, str], Corpus]:
    def make(name: str, rest: str) -> Corpus:
        path = Path(rest)
        if not path.exists():
            raise OnepassError(f"corpus {name!r}: there is no file or folder {path}")
        return Files(name, path, suffixes, reader)

    return make


CORPORA: Registry[Callable[[str, str], Corpus]] = Registry("corpus")
"""What may stand before the ":" in a corpus name, with what makes the corpus: (name, rest)."""

CORPORA.add("smalltown", _smalltown)
CORPORA.add("dialogsum", _files((".jsonl", ".csv"), read_dialogsum))
CORPORA.add("persona-chat", _files((".csv",), read_persona_chat))


def _share(examples: list[Example], split: str) -> list[Example]:
    """The 80/10/10 share of `examples`, ranked by a hash of their inputs.

    Ranked, not cut at a hash value, so that three inputs are enough for every split to have one.
    """

    def digest(text: str) -> bytes:
        return hashlib.sha256(text.encode()).digest()

    inputs = sorted({example.input for example in examples}, key=digest)
    held_out = max(1, len(inputs) // 10) if len(inputs) >= len(SPLITS) else 0
    shares = {
        "train": inputs[2 * held_out :],
        "validation": inputs[:held_out],
        "test": inputs[held_out : 2 * held_out],
    }
    chosen = set(shares[split])
    return [example for example in examples if example.input in chosen]


def _split_of(file: Path) -> str | None:
    words = re.split(r"[^a-z]+", file.name.lower())
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), None)


def _csv_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a CSV file with the lines they end on; `OnepassError` if there are none."""
    text = read_text(path).removeprefix("\ufeff")
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise OnepassError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    for number, row in rows:
        # DictReader puts what has no heading under None.
        if None in row:
            raise OnepassError(f"{path}, line {number}: more columns than the header has")
    if not rows:
        raise OnepassError(f"{path} holds no examples; expected a header and one row per example")
    return rows


def _field(row: dict[str, Any], key: str, where: str) -> str:
    if key not in row:
        raise OnepassError(f'{where}: no "{key}"; found {", ".join(map(str, row)) or "nothing"}')
    return _text(row[key], key, where)


def _text(value: object, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise OnepassError(
            f'{where}: "{key}" must be a text that is not empty, found {value!r:.40}'
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise OnepassError(f'{where}: "{key}" has half a character: {error.reason}') from error
    return value.replace("\r\n", "\n").strip()


def _only(path: Path, has: str, task: Task) -> OnepassError:
    return OnepassError(
        f"{path} has targets for {has!r} only, not for {task.name!r}; for other tasks give JSON "
        'lines of {"input", "target"}'
    )
