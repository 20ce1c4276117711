"""Rows of one's own, recognised by their columns, as examples of any task.

| layout | input | target |
| --- | --- | --- |
| Alpaca | `instruction`, then `input` if it is not blank | `output` |
| input/target | `input` | `target`, or `targets`, a list |
| input/output | `input` | `output` |
| prompt/completion | `prompt` | `completion` |
| dialogue/summary | `dialogue` | `summary`, or `summary1`, `summary2`, ... |
| messages | all but the last of `messages`, of `role` and `content` | the last, the assistant's |
| ShareGPT | likewise of `conversations`, of `from` and `value` | |

If a row has the columns of two layouts the first counts. Also read are `id`, `meta` (an object) and
`task`: a row that names a task counts for that task only, others count for any. A blank cell is no
cell. In CSV and TSV lists and objects are written as JSON.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.tasks.corpora.row import Row, clean, is_blank
from onepass.tasks.example import Example
from onepass.tasks.task import Task


class Layout(NamedTuple):
    """Rows with the columns `source` and `target`, or several of it: targets, target1."""

    name: str
    source: str
    target: str

    def targets(self, columns: Iterable[str]) -> list[str]:
        """The columns that hold targets, in order."""
        several = re.compile(rf"{self.target}(s|\d*)")
        return sorted(key for key in columns if several.fullmatch(str(key)))

    def fits(self, columns: Iterable[str]) -> bool:
        return self.source in columns and bool(self.targets(columns))


LAYOUTS = (
    Layout("Alpaca", "instruction", "output"),
    Layout("input/target", "input", "target"),
    Layout("input/output", "input", "output"),
    Layout("prompt/completion", "prompt", "completion"),
    Layout("dialogue/summary", "dialogue", "summary"),
    Layout("messages", "messages", "messages"),
    Layout("ShareGPT", "conversations", "conversations"),
)

_CHATS = ("messages", "conversations")
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "developer": "system"}
_OURS = ("input", "target", "id", "task", "messages")


def read(rows: Iterable[Row], task: Task | None) -> Iterator[tuple[str, Example]]:
    """Yield the examples of `task` (None: of any), each with its place.

    `OnepassError` for a row of no known layout, or without a text where one must be.
    """
    for row in _of_task(rows, task):
        layout = layout_of(row)
        if layout is None:
            raise _unreadable(row)
        text, answer, meta = _input(row, layout)
        if layout.source not in _CHATS:
            targets = _targets(row, layout)
        elif answer is not None:
            targets = (answer,)
        else:
            raise OnepassError(
                f'{row.where}: "{layout.source}" ends with a message of the user; the last one is '
                "the target and must be the assistant's"
            )
        yield row.where, Example(row.id, text, targets, {**meta, **_meta(row)})


def read_inputs(
    rows: Iterable[Row], task: Task | None = None
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield the place, id, input and meta of each row of `task` (None: of any), target or not."""
    for row in _of_task(rows, task):
        fitting = (layout for layout in LAYOUTS if layout.source in row.given)
        layout = layout_of(row) or next(fitting, None)
        if layout is None:
            raise _unreadable(row)
        yield row.where, row.id, _input(row, layout)[0], _meta(row)


def layout_of(row: Row) -> Layout | None:
    """The first layout that fits the columns with a value, or else all columns; None if none."""
    for columns in (row.given, row.fields):
        for layout in LAYOUTS:
            if layout.fits(columns):
                return layout
    return None


def renamed(rows: Iterable[Row], columns: Mapping[str, str]) -> Iterable[Row]:
    """The rows, with the columns that {ours: theirs} names under our names.

    Where an input, a target or messages are named, no other layout is looked for. An empty name of
    theirs hides that column. `OnepassError` for a name that is no column of any row.
    """
    if not columns:
        return rows  # one at a time, for there may be more than memory holds
    found = list(rows)
    known = list(dict.fromkeys(str(key) for row in found for key in row.fields))
    for ours, theirs in columns.items():
        if ours not in _OURS:
            raise unknown("name for a column", ours, list(_OURS))
        if theirs and theirs not in known and found:
            raise OnepassError(
                f"{found[0].where}: there is no column {theirs!r} for {ours}; "
                f"the columns are {', '.join(known)}"
            )
    hidden = {ours for ours, theirs in columns.items() if not theirs}
    if "target" in columns:
        hidden.add("targets")
    if {"input", "target", "messages"} & columns.keys():
        hidden |= {layout.source for layout in LAYOUTS} - {"input"} | {"output"}
    if "messages" in columns:
        hidden |= {"input", "target", "targets"}
    given = {ours: theirs for ours, theirs in columns.items() if theirs}

    def fields(row: Row) -> dict[str, Any]:
        kept = {key: value for key, value in row.fields.items() if key not in hidden}
        return kept | {ours: row.fields.get(theirs) for ours, theirs in given.items()}

    return [row._replace(fields=fields(row)) for row in found]


def _of_task(rows: Iterable[Row], task: Task | None) -> Iterator[Row]:
    for row in rows:
        if task is None or row.given.get("task", task.name) == task.name:
            yield row


def _input(row: Row, layout: Layout) -> tuple[str, str | None, dict[str, Any]]:
    """The input; of a conversation also what the assistant says last, and the system message."""
    if layout.source in _CHATS:
        return _conversation(row, layout.source)
    text = clean(row.fields[layout.source], layout.source, row.where)
    if layout.name == "Alpaca" and "input" in row.given:
        text += "\n\n" + clean(row.fields["input"], "input", row.where)
    return text, None, {}


def _targets(row: Row, layout: Layout) -> tuple[str, ...]:
    keys = layout.targets(row.given) or layout.targets(row.fields)
    if keys == ["target", "targets"]:
        raise OnepassError(f'{row.where}: give either "target" or "targets", not both')
    texts: list[str] = []
    for key in keys:
        value = row.structure(key, list) if key == f"{layout.target}s" else row.fields[key]
        many = value if isinstance(value, list) and value else [value]
        texts += [clean(each, key, row.where) for each in many]
    return tuple(texts)


def _conversation(row: Row, key: str) -> tuple[str, str | None, dict[str, Any]]:
    """The turns before the assistant's last as one text, a turn per line where there are several.

    If the user has the last word all turns are the input, and there is no answer.
    """
    turns: list[tuple[str, str]] = []
    for number, turn in enumerate(row.structure(key, list), start=1):
        where = f'{row.where}, "{key}" {number}'
        if not isinstance(turn, dict):
            raise OnepassError(
                f"{where}: expected an object of role and content, found {turn!r:.40}"
            )
        role, said = turn.get("role") or turn.get("from"), turn.get("content") or turn.get("value")
        role = clean(role, "role", where).lower()
        turns.append((_ROLES.get(role, role), clean(said, "content", where)))
    system = [said for role, said in turns if role == "system"]
    turns = [turn for turn in turns if turn[0] != "system"]
    answer = turns.pop()[1] if turns and turns[-1][0] == "assistant" else None
    if not turns:
        raise OnepassError(f'{row.where}: "{key}" has no message of a user')
    lines = [f"{role.capitalize()}: {said}" for role, said in turns]
    text = turns[0][1] if len(turns) == 1 else "\n".join(lines)
    return text, answer, {"system": "\n\n".join(system)} if system else {}


def _meta(row: Row) -> dict[str, Any]:
    if is_blank(row.fields.get("meta")):
        return {}
    # A table has every key in every row.
    return {key: value for key, value in row.structure("meta", dict).items() if value is not None}


def _unreadable(row: Row) -> OnepassError:
    partly = next((layout for layout in LAYOUTS if layout.source in row.fields), None)
    found = ", ".join(map(str, row.fields)) or "nothing"
    return OnepassError(
        f'{row.where}: no "{partly.target if partly else "input"}"; found {found}; name yours with '
        "--columns input=COLUMN target=COLUMN, or see the layouts in docs/data.md"
    )
