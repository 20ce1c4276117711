"""From a meaning to text: its English conversation, its summaries and replies in any language."""

import random
from collections.abc import Mapping

from onepass.smalltown.meaning import Meaning, draw_distinct
from onepass.smalltown.world import Wording, fill, language, town

# What small talk may mention; none of it is part of the meaning.
_SMALL_TALK_TYPES = {"x": "name", "day9": "day", "place9": "place", "item9": "item"}
_SMALL_TALK_TYPES |= {"city9": "city", "price9": "price"}
MIN_TURNS, MAX_TURNS = 4, 10


def texts(meaning: Meaning, kind: str, code: str, tone: str) -> list[str]:
    """Every rendering of a meaning as a `kind` ("summary" or "reply") in a language and a tone."""
    types = town().scenarios[meaning.scenario].slots
    found = language(code).texts[kind][meaning.cell][tone]
    return [fill(wording, meaning.slots, types, code) for wording in found]


def _decoys(meaning: Meaning, types: Mapping[str, str], rng: random.Random) -> dict[str, str]:
    """Values to be mentioned and overruled, or chatted about: never those of the meaning."""
    slots = town().scenarios[meaning.scenario].slots
    values: dict[str, str] = {}
    for decoy, kind in types.items():
        true = {value for slot, value in meaning.slots.items() if slots[slot] == kind}
        values[decoy] = draw_distinct(rng, kind, true | set(values.values()))
    return values


def turns(meaning: Meaning, rng: random.Random, *, unseen: bool = False) -> list[tuple[str, str]]:
    """(speaker, line) pairs, 4 to 10 of them; the last is a's, and the reply would be b's.

    Plans change half of the time, and up to two pairs of small talk are mixed in. With `unseen`,
    every turn that has a test-only wording uses it.
    """
    scenario = town().scenarios[meaning.scenario]
    flags = {"", meaning.outcome, rng.choice(["changed", "direct"])}
    # A plan that came to nothing still has its day and time in the conversation.
    dropped = {s: kind for s, kind in scenario.slots.items() if s not in meaning.slots}
    kinds = {**_SMALL_TALK_TYPES, **scenario.decoys, **dropped}
    values = {**meaning.slots, **_decoys(meaning, kinds, rng)}
    types = {**scenario.slots, **kinds}

    def say(speaker: str, wording: Wording) -> tuple[str, str]:
        return meaning.slots[speaker], fill(wording, values, types, "en")

    said: list[tuple[str, str]] = []
    for turn in scenario.turns:
        if turn.condition in flags:
            said.append(say(turn.speaker, rng.choice(turn.usable(unseen=unseen))))
    # Small talk comes only where nobody waits for an answer, so that it interrupts nothing.
    gaps = [i for i in range(1, len(said)) if not said[i - 1][1].endswith("?")]
    wanted = max(rng.choice([0, 1, 1, 2]), len(said) < MIN_TURNS)
    pairs = min(wanted, (MAX_TURNS - len(said)) // 2, len(gaps))
    for gap in sorted(rng.sample(gaps, pairs), reverse=True):
        asks, answers = said[gap][0], said[gap - 1][0]
        question, answer = rng.choice(town().small_talk)
        chat = _decoys(meaning, _SMALL_TALK_TYPES, rng)
        said[gap:gap] = [
            (asks, fill(question, chat, _SMALL_TALK_TYPES, "en")),
            (answers, fill(answer, chat, _SMALL_TALK_TYPES, "en")),
        ]
    return said


def conversation(meaning: Meaning, rng: random.Random, *, unseen: bool = False) -> str:
    """The conversation as lines "Name: what is said"."""
    return "\n".join(f"{who}: {line}" for who, line in turns(meaning, rng, unseen=unseen))
