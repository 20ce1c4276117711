"""From text to meaning, and the verdict on an output.

A text is read by replacing every phrase of a language's lexicon by its type, which leaves a
skeleton ("‹name› and ‹name› will meet ‹place› on ‹day› at ‹time›."). Each wording of the town has
one skeleton, so a dictionary proposes the wordings a text may be; rendering the proposal again must
give the text to the letter. What is read is therefore exactly what was said: a swapped slot reads
as another meaning, and a sentence that is no wording of the town does not read at all.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from onepass.smalltown.meaning import Meaning, draw
from onepass.smalltown.world import (
    KINDS,
    LANGUAGES,
    TONES,
    Wording,
    capitalised,
    fill,
    language,
    town,
    wanted,
)
from onepass.tasks.task import Task

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text says, as what (`kind`), in which language and tone."""

    meaning: Meaning
    kind: str
    language: str
    tone: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an output is right, and what fails.

    `share` is the share of the meaning's facts that appear rightly rendered in the wanted language,
    also for a text that cannot be read as a whole.
    """

    facts: bool
    language: bool
    tone: bool
    share: float
    why: str

    @property
    def verified(self) -> bool:
        return self.facts and self.language and self.tone


@dataclass(frozen=True, slots=True)
class _Known:
    """A wording with what is needed to read it: which marks of its skeleton are which slots."""

    wording: Wording
    cell: str
    kind: str
    tone: str
    marks: tuple[str, ...]


@cache
def _phrases(code: str) -> tuple[re.Pattern[str], Mapping[str, list[tuple[str, str]]]]:
    """The phrases of a language (longest first), and the (type, value) pairs each may stand for."""
    meanings: dict[str, list[tuple[str, str]]] = {}
    for kind, values in language(code).forms.items():
        for value, forms in values.items():
            for surface in forms.values():
                for variant in {surface, capitalised(surface)}:
                    entry = meanings.setdefault(variant, [])
                    if (kind, value) not in entry:
                        entry.append((kind, value))
    longest_first = sorted(meanings, key=lambda surface: (-len(surface), surface))
    pattern = "|".join(re.escape(surface) for surface in longest_first)
    return re.compile(rf"(?<!\w)(?:{pattern})(?!\w)"), meanings


def _skeleton(text: str, code: str) -> tuple[str, list[re.Match[str]]]:
    pattern, meanings = _phrases(code)
    found = list(pattern.finditer(text))
    skeleton, end = "", 0
    for match in found:
        skeleton += f"{text[end : match.start()]}‹{meanings[match[0]][0][0]}›"
        end = match.end()
    return skeleton + text[end:], found


@cache
def _index(code: str) -> Mapping[str, list[_Known]]:
    """Skeletons to the wordings they may come from.

    A value that is another type's phrase as well can give a wording more than one skeleton; a few
    samples of each wording find them all.
    """
    index: dict[str, list[_Known]] = {}
    rng = random.Random("smalltown/skeletons")
    for kind in KINDS:
        for cell, tones in language(code).texts[kind].items():
            scenario, _, outcome = cell.partition(".")
            for tone, wordings in tones.items():
                for wording in wordings:
                    for _ in range(6):
                        meaning = draw(rng, town().scenarios[scenario], outcome)
                        text, spans = _render_with_spans(wording, meaning, code)
                        skeleton, found = _skeleton(text, code)
                        marks = tuple(_slot_in(match, spans) for match in found)
                        known = _Known(wording, cell, kind, tone, marks)
                        entry = index.setdefault(skeleton, [])
                        if known not in entry:
                            entry.append(known)
    return index


def _slot_in(match: re.Match[str], spans: Mapping[int, str]) -> str:
    """The slot that starts within a phrase ("the bike" may cover a literal article), or ""."""
    return next((slot for at, slot in spans.items() if match.start() <= at < match.end()), "")


def _render_with_spans(wording: Wording, meaning: Meaning, code: str) -> tuple[str, dict[int, str]]:
    """The text of a wording, and which slot starts at which character."""
    types = town().scenarios[meaning.scenario].slots
    text, spans = "", {}
    for end in range(1, len(wording) + 1):
        longer = fill(wording[:end], meaning.slots, types, code)
        if wording[end - 1].slot:
            spans[len(text)] = wording[end - 1].slot
        text = longer
    return text, spans


def _as_wording(text: str, code: str, known: _Known, found: list[re.Match[str]]) -> Meaning | None:
    """The meaning of a text as a given wording, if rendering it gives the text again."""
    scenario_name, _, outcome = known.cell.partition(".")
    scenario = town().scenarios[scenario_name]
    slots: dict[str, str] = {}
    for slot, match in zip(known.marks, found, strict=True):
        if not slot:
            continue
        kind = scenario.slots[slot]
        values = [value for k, value in _phrases(code)[1][match[0]] if k == kind]
        if not values or slots.get(slot, values[0]) != values[0]:
            return None
        slots[slot] = values[0]
    # A reply need not name its speaker.
    if set(scenario.outcomes[outcome]) - set(slots) - {"a", "b"}:
        return None
    if fill(known.wording, slots, scenario.slots, code) != text:
        return None
    return Meaning(scenario_name, outcome, slots)


def read(text: str) -> Reading | None:
    """What a text says, or None when it is no wording of the town."""
    text = text.strip()
    for code in LANGUAGES:
        skeleton, found = _skeleton(text, code)
        for known in _index(code).get(skeleton, ()):
            meaning = _as_wording(text, code, known, found)
            if meaning is not None:
                return Reading(meaning, known.kind, code, known.tone)
    return None


def _wrong(read: Meaning, wanted: Meaning) -> list[str]:
    """What was read differently, as "day is friday, not monday"; empty when all agree."""
    if read.cell != wanted.cell:
        return [f"it tells of {read.cell}, not {wanted.cell}"]
    differing = [slot for slot, value in read.slots.items() if wanted.slots[slot] != value]
    if sorted(differing) == ["a", "b"] and town().scenarios[wanted.scenario].symmetric:
        swapped = (read.slots["b"], read.slots["a"])
        if swapped == (wanted.slots["a"], wanted.slots["b"]):
            return []
    types = town().scenarios[wanted.scenario].slots
    return [f"{types[s]} is {read.slots[s]}, not {wanted.slots[s]}" for s in differing]


def _words_by_tone(code: str, kind: str) -> dict[str, set[str]]:
    """Per tone, the words that its wordings are made of, slots left out."""
    words = {tone: set[str]() for tone in TONES}
    for tones in language(code).texts[kind].values():
        for tone, wordings in tones.items():
            for wording in wordings:
                for piece in wording:
                    words[tone].update(_WORD.findall(piece.text.lower()))
    return words


@cache
def _vocabulary(code: str) -> frozenset[str]:
    """Every word of a language's wordings and lexicon."""
    words = set[str]()
    for kind in KINDS:
        words.update(*_words_by_tone(code, kind).values())
    for kind, values in language(code).forms.items():
        if kind not in ("name", "price"):
            for forms in values.values():
                for surface in forms.values():
                    words.update(_WORD.findall(surface.lower()))
    return frozenset(words)


@cache
def _tone_words(code: str, kind: str) -> Mapping[str, frozenset[str]]:
    """Per tone, the words that its wordings have and those of no other tone have."""
    words = _words_by_tone(code, kind)
    return {
        tone: frozenset(own - set().union(*(w for other, w in words.items() if other != tone)))
        for tone, own in words.items()
    }


def guess_language(text: str) -> str:
    """The language whose vocabulary covers most words of a text ("" when no word is covered)."""
    names = {name.lower() for name in town().names}
    words = [
        word for word in _WORD.findall(text.lower()) if word not in names and not word.isdigit()
    ]
    covered = {code: sum(word in _vocabulary(code) for word in words) for code in LANGUAGES}
    best = max(covered, key=lambda code: covered[code])
    return best if covered[best] else ""


def guess_tone(text: str, code: str, kind: str) -> str:
    """The tone whose own words a text has most of; "plain" when it has none of any."""
    words = set(_WORD.findall(text.lower()))
    scores = Counter({tone: len(words & own) for tone, own in _tone_words(code, kind).items()})
    tone, score = scores.most_common(1)[0]
    return tone if score else "plain"


def facts_share(text: str, meaning: Meaning, code: str) -> float:
    """The share of a meaning's slots that a text renders rightly in a language (0 to 1)."""
    scenario = town().scenarios[meaning.scenario]
    slots = [slot for slot in meaning.slots if slot != "b"]
    kept = 0
    for slot in slots:
        forms = language(code).forms[scenario.slots[slot]][meaning.slots[slot]].values()
        variants = {v for surface in forms for v in (surface, capitalised(surface))}
        kept += any(re.search(rf"(?<!\w){re.escape(v)}(?!\w)", text) for v in variants)
    return kept / len(slots)


def verify(text: str, meta: Mapping[str, Any], task: Task) -> Verdict:
    """The verdict on an output of `task` for an Example whose `meta` holds "meaning" and "kind"."""
    meaning, kind = Meaning.from_json(meta["meaning"]), str(meta["kind"])
    in_language = wanted(task).language
    # A translation keeps the tone of its source, which the example's meta states.
    wanted_tone = str(meta.get("tone", wanted(task).tone))
    text = text.strip()
    share = facts_share(text, meaning, in_language)
    reading = read(text)
    if reading is None:
        code = guess_language(text)
        tone = guess_tone(text, code, kind) if code else ""
        why = ["facts: this is no sentence of the town"]
        right_language, right_tone, facts = code == in_language, tone == wanted_tone, False
    else:
        wrong = _wrong(reading.meaning, meaning)
        if reading.kind != kind:
            wrong.insert(0, f"it is a {reading.kind}, not a {kind}")
        code, tone = reading.language, reading.tone
        right_language, right_tone, facts = code == in_language, tone == wanted_tone, not wrong
        why = [] if facts else [f"facts: {', '.join(wrong)}"]
    if not right_language:
        why.append(f"language: {code or 'unknown'}, not {in_language}")
    if not right_tone:
        why.append(f"tone: {tone or 'unknown'}, not {wanted_tone}")
    return Verdict(facts, right_language, right_tone, share, "; ".join(why))
