"""What judges say of stored predictions, on disk beside them.

DIR/<method>/<task>/<cell>/judge-<name>.jsonl   a line about the judge, then per prediction, in
                                                their order, {"split", "id", "verdict", "answer"}
DIR/.judge/<name>.jsonl                         every answer as it came: {"key", "answer"}

A cell's file is written when the cell is done with. The answers are found again by their keys, a
hash of the judge and all it was shown, so that nothing is ever asked twice, and an output that has
changed is asked about anew.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from onepass.comparison.cells import Cell
from onepass.comparison.runs import Run, SplitResult, pack
from onepass.core.errors import OnepassError
from onepass.core.files import read_jsonl, to_jsonl, write_jsonl

ANSWERS = ".judge"
JUDGED = "judge"
"""The name of a judge's verdicts among the metrics, and the first word of their files."""

T = TypeVar("T")

_SCORES = {"yes": 1.0, "no": 0.0, "unreadable": None, "failed": None}


class Header(BaseModel):
    """Whose judgements these are: a `model` asked in the wording of version `prompts`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["onepass judgements 1"] = "onepass judgements 1"
    model: str
    prompts: str
    date: str


@dataclass(frozen=True)
class Judgement:
    """`answer`: the judge's words; for "failed" why there are none."""

    split: str
    id: str
    verdict: Literal["yes", "no", "unreadable", "failed"]
    answer: str


@dataclass(frozen=True)
class Judged:
    """All that the judge `name` has said of some runs."""

    name: str
    header: Header
    by_cell: Mapping[Cell, Sequence[Judgement]]

    def of(self, run: Run, split: str) -> list[Judgement]:
        return [row for row in self.by_cell.get(run.cell, ()) if row.split == split]


_ROW = TypeAdapter(Judgement)


def judgements_path(folder: Path, cell: Cell, name: str) -> Path:
    return folder / cell.place / f"{JUDGED}-{name}.jsonl"


def save_judgements(path: Path, header: Header, rows: Sequence[Judgement]) -> None:
    """Write a cell's file, unless it says the same already: its date then stays."""
    if path.is_file():
        try:
            old, found = read_judgements(path)
        except OnepassError:
            pass
        else:
            if found == list(rows) and old.model_dump(exclude={"date"}) == header.model_dump(
                exclude={"date"}
            ):
                return
    write_jsonl(path, [header.model_dump(), *map(asdict, rows)])


def read_judgements(path: Path) -> tuple[Header, list[Judgement]]:
    """The two parts of a cell's file; an `OnepassError` where it is none."""
    (_, first), *rest = read_jsonl(path)
    header = _checked(TypeAdapter(Header), first, path, 1)
    return header, [_checked(_ROW, row, path, number) for number, row in rest]


def _checked(kind: TypeAdapter[T], row: Mapping[str, Any], path: Path, number: int) -> T:
    try:
        return kind.validate_python(row)
    except ValidationError as error:
        raise OnepassError(
            f"{path}, line {number}: {error.errors()[0]['msg']}; remove the file and run "
            "`onepass judge` again, which asks nothing twice"
        ) from error


def load_judged(folder: Path, runs: Iterable[Run]) -> list[Judged]:
    """What each judge has said of these runs, the judges by name."""
    headers: dict[str, Header] = {}
    found: dict[str, dict[Cell, list[Judgement]]] = defaultdict(dict)
    for run in runs:
        for path in sorted((folder / run.cell.place).glob(f"{JUDGED}-*.jsonl")):
            name = path.stem.removeprefix(f"{JUDGED}-")
            headers[name], found[name][run.cell] = read_judgements(path)
    return [Judged(name, headers[name], found[name]) for name in sorted(found)]


def with_scores(runs: Sequence[Run], judged: Sequence[Judged]) -> tuple[list[Run], list[str]]:
    """The runs with each judge's verdicts as one more metric, and the names of these metrics.

    1 for yes and 0 for no; an answer that is unreadable or missing is no score.
    """
    metrics = {
        each.name: JUDGED if len(judged) == 1 else f"{JUDGED}-{each.name}" for each in judged
    }
    scored = []
    for run in runs:
        splits = dict(run.splits)
        for each in judged:
            for split in splits:
                rows = each.of(run, split)
                splits[split] = _with_metric(splits[split], metrics[each.name], rows)
        scored.append(run.model_copy(update={"splits": splits}))
    return scored, list(metrics.values())


def _with_metric(result: SplitResult, metric: str, rows: Sequence[Judgement]) -> SplitResult:
    scores = [_SCORES[row.verdict] for row in rows]
    readable = [score for score in scores if score is not None]
    if not readable:
        return result
    return result.model_copy(
        update={
            "means": {**result.means, metric: fmean(readable)},
            "scores": {**result.scores, metric: pack(scores)},
        }
    )


def answers_path(folder: Path, name: str) -> Path:
    return folder / ANSWERS / f"{name}.jsonl"


def read_answers(path: Path) -> dict[str, str]:
    """The answers of one judge so far, by key; a line cut short by a kill is left out."""
    try:
        text = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
    except OSError as error:
        raise OnepassError(f"cannot read {path}: {error.strerror}") from error
    found = map(_row, text.split("\n"))
    return {row["key"]: row["answer"] for row in found if row is not None}


@contextmanager
def adding_answers(path: Path) -> Iterator[Callable[[str, str], None]]:
    """Yield a function that takes a key and an answer, and has put them on disk when it returns."""
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # the process before was killed in mid-line
                    file.write(b"\n")

            def add(key: str, answer: str) -> None:
                file.write(to_jsonl([{"key": key, "answer": answer}]).encode())
                file.flush()

            yield add
    except OSError as error:
        raise OnepassError(f"cannot write {path}: {error.strerror}") from error


def _row(line: str) -> dict[str, str] | None:
    """A line of answers; None for one that is cut short, whose answer is asked for again."""
    try:
        row: Any = json.loads(line)
        return row if {type(row["key"]), type(row["answer"])} == {str} else None
    except (ValueError, KeyError, TypeError):
        return None


def judge_name(model: str) -> str:
    """A file name for a judge: the last part of its model's name."""
    last = re.split(r"[/\\]", model.rstrip("/\\"))[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.") or JUDGED
