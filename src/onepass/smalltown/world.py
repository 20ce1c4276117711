"""The town's data files, loaded once into plain data.

`data/town.yaml` holds names, values, scenarios and small talk; `data/{en,es,fr,de}.yaml` hold, per
language, the forms of the values and the wordings of summaries and replies. Their header comments
are the format's reference.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from onepass.core.errors import OnepassError
from onepass.tasks.task import Task

LANGUAGES = ("en", "es", "fr", "de")
"""ISO 639-1 codes a text of the town may be in; conversations and plain tasks are in "en"."""

TONES = ("plain", "professional", "casual", "witty", "paraphrase")
"""How a text may be worded; "plain" is the tone of a task that asks for none."""

KINDS = ("summary", "reply")

KIND_OF = {"summarize": "summary", "reply": "reply"}
"""What a main task makes, one of `KINDS`."""

_SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")
# A slot is capitalised at the start of a text and after these.
_SENTENCE_ENDS = (". ", "! ", "? ", "¡", "¿")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a task asks of the town: a `kind` ("" for a rewriting), a language and a tone."""

    kind: str
    language: str
    tone: str


@cache
def wanted(task: Task) -> Wanted:
    """What the names of the task's parts ask for; `OnepassError` for one the town knows not."""
    found = {"kind": "", "language": "en", "tone": "plain"}
    for part in task.parts:
        family, _, value = part.name.partition(":")
        if part.name in KIND_OF:
            found["kind"] = KIND_OF[part.name]
        elif family == "translate" and value in LANGUAGES[1:]:
            found["language"] = value
        elif family == "tone" and value in TONES[1:]:
            found["tone"] = value
        else:
            raise OnepassError(
                f"smalltown has no examples of {part.name!r}: it knows {', '.join(KIND_OF)}, "
                f"translate:{{{','.join(LANGUAGES[1:])}}} and tone:{{{','.join(TONES[1:])}}}; name "
                "a corpus of your own"
            )
    return Wanted(**found)


@dataclass(frozen=True, slots=True)
class Piece:
    """Literal text (`slot` empty), or the place of a slot in one of its forms ("": bare)."""

    text: str
    slot: str = ""
    form: str = ""


Wording = tuple[Piece, ...]


def parse_wording(text: str) -> Wording:
    """`"See you {place.at}."` as pieces."""
    pieces, end = [], 0
    for match in _SLOT.finditer(text):
        if match.start() > end:
            pieces.append(Piece(text[end : match.start()]))
        pieces.append(Piece("", match[1], match[2] or ""))
        end = match.end()
    if end < len(text):
        pieces.append(Piece(text[end:]))
    return tuple(pieces)


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


@dataclass(frozen=True, slots=True)
class Turn:
    """One move of a conversation: who speaks, in which wordings, and under which condition."""

    speaker: str
    wordings: tuple[Wording, ...]
    condition: str = ""

    def usable(self, *, unseen: bool) -> tuple[Wording, ...]:
        """The wordings of training, or (with `unseen`) those that appear only in test."""
        if len(self.wordings) < 3:
            return self.wordings
        return self.wordings[-1:] if unseen else self.wordings[:-1]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What can happen: typed slots, possible outcomes, overruled decoys, and the conversation."""

    name: str
    slots: Mapping[str, str]
    outcomes: Mapping[str, tuple[str, ...]]
    decoys: Mapping[str, str]
    turns: tuple[Turn, ...]
    held_out: bool
    symmetric: bool


@dataclass(frozen=True, slots=True)
class Town:
    names: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    scenarios: Mapping[str, Scenario]
    small_talk: tuple[tuple[Wording, Wording], ...]


@dataclass(frozen=True, slots=True)
class Language:
    """One language's forms and wordings.

    `forms[type][value][form]` is a surface phrase; `texts[kind][cell][tone]` are the whole texts of
    a scenario ("meet") or scenario and outcome ("lend.no"): every wording in every frame of its
    tone.
    """

    code: str
    forms: Mapping[str, Mapping[str, Mapping[str, str]]]
    texts: Mapping[str, Mapping[str, Mapping[str, tuple[Wording, ...]]]]


def _data(name: str) -> Any:
    text = resources.files(__package__).joinpath("data", name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _scenario(name: str, row: Mapping[str, Any]) -> Scenario:
    slots = dict(row["slots"])
    outcomes = {key: tuple(used) for key, used in row.get("outcomes", {"": slots}).items()}
    turns = []
    for turn in row["turns"]:
        ((speaker, texts),) = ((key, value) for key, value in turn.items() if key != "if")
        wordings = tuple(parse_wording(text) for text in texts)
        turns.append(Turn(speaker, wordings, turn.get("if", "")))
    return Scenario(
        name=name,
        slots=slots,
        outcomes=outcomes,
        decoys=dict(row.get("decoys", {})),
        turns=tuple(turns),
        held_out=bool(row.get("held_out", False)),
        symmetric=bool(row.get("symmetric", False)),
    )


@cache
def town() -> Town:
    """The town (the file is read once)."""
    data = _data("town.yaml")
    return Town(
        names=tuple(data["names"]),
        values={kind: tuple(str(v) for v in values) for kind, values in data["values"].items()},
        scenarios={name: _scenario(name, row) for name, row in data["scenarios"].items()},
        small_talk=tuple(
            (parse_wording(asked), parse_wording(answered))
            for asked, answered in data["small_talk"]
        ),
    )


@cache
def language(code: str) -> Language:
    """The forms and wordings of one of the four languages."""
    data = _data(f"{code}.yaml")
    forms: dict[str, dict[str, dict[str, str]]] = {
        "name": {name: {"": name} for name in town().names}
    }
    for kind, values in data["lexicon"].items():
        forms[kind] = {
            str(value): dict(entry) if isinstance(entry, dict) else {"": str(entry)}
            for value, entry in values.items()
        }
    texts: dict[str, dict[str, dict[str, tuple[Wording, ...]]]] = {}
    for kind in KINDS:
        frames = data["frames"][kind]
        texts[kind] = {}
        for cell, tones in data[kind].items():
            texts[kind][cell] = {
                tone: tuple(
                    parse_wording(frame.replace("{text}", text))
                    for text in tones[tone]
                    for frame in frames.get(tone, ["{text}"])
                )
                for tone in TONES
            }
    return Language(code, forms, texts)


def fill(wording: Wording, slots: Mapping[str, str], types: Mapping[str, str], code: str) -> str:
    """A wording with its slots filled in: `slots` gives values, `types` the slots' types."""
    forms = language(code).forms
    text = ""
    for piece in wording:
        if not piece.slot:
            text += piece.text
            continue
        surface = forms[types[piece.slot]][slots[piece.slot]][piece.form]
        if not text or text.endswith(_SENTENCE_ENDS):
            surface = capitalised(surface)
        text += surface
    return text
