"""Meanings: what a conversation comes to. Their sampling and the splits.

The split of a meaning is a hash of its scenario and slots, so no two splits share a slot
combination, whatever the seed and the machine.
"""

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.smalltown.world import Scenario, town

SPLITS = ("train", "validation", "test", "test-unseen")
"""Of meanings; what is told in test-only wordings is a matter of the corpus."""
# Percent of meanings in validation and in test; the rest is train.
_VALIDATION, _TEST = 10, 10


@dataclass(frozen=True, slots=True)
class Meaning:
    """A scenario, how it ended ("" where there is one ending) and a value for each slot."""

    scenario: str
    outcome: str
    slots: Mapping[str, str]

    @property
    def cell(self) -> str:
        """The key of its wordings: "meet", "lend.no"."""
        return f"{self.scenario}.{self.outcome}" if self.outcome else self.scenario

    def to_json(self) -> dict[str, Any]:
        return {"scenario": self.scenario, "outcome": self.outcome, "slots": dict(self.slots)}

    @staticmethod
    def from_json(data: Any) -> "Meaning":
        """Raises `OnepassError` when the scenario, the outcome or a slot is not of the town."""
        try:
            scenario = town().scenarios.get(data["scenario"])
            if scenario is None:
                raise unknown("scenario", data["scenario"], list(town().scenarios))
            slots = {slot: data["slots"][slot] for slot in scenario.outcomes[data["outcome"]]}
            for slot, value in slots.items():
                if value not in values_of(scenario.slots[slot]):
                    raise unknown(
                        scenario.slots[slot], value, list(values_of(scenario.slots[slot]))
                    )
            return Meaning(scenario.name, data["outcome"], slots)
        except (KeyError, TypeError) as error:
            raise OnepassError(f"not a meaning of smalltown: {data!r} (missing {error})") from error


def values_of(kind: str) -> tuple[str, ...]:
    """Every value of a slot type."""
    return town().names if kind == "name" else town().values[kind]


def split_of(meaning: Meaning) -> str:
    """The one split in which this slot combination may appear."""
    if town().scenarios[meaning.scenario].held_out:
        return "test-unseen"
    key = "|".join([meaning.scenario, *(f"{s}={v}" for s, v in sorted(meaning.slots.items()))])
    bucket = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % 100
    if bucket < _TEST:
        return "test"
    return "validation" if bucket < _TEST + _VALIDATION else "train"


def draw_distinct(rng: random.Random, kind: str, taken: set[str]) -> str:
    """A value of a type that is not `taken`."""
    while True:
        value = rng.choice(values_of(kind))
        if value not in taken:
            return value


def draw(rng: random.Random, scenario: Scenario, outcome: str | None = None) -> Meaning:
    """A meaning of this scenario (and outcome); slots of one type get different values."""
    if outcome is None:
        outcome = rng.choice(list(scenario.outcomes))
    slots: dict[str, str] = {}
    for slot in scenario.outcomes[outcome]:
        kind = scenario.slots[slot]
        taken = {value for other, value in slots.items() if scenario.slots[other] == kind}
        slots[slot] = draw_distinct(rng, kind, taken)
    return Meaning(scenario.name, outcome, slots)


def sample(split: str, seed: str) -> Iterator[Meaning]:
    """An endless stream of meanings of one split, without repeats while any are to be expected.

    The stream depends on nothing but its arguments.
    """
    if split not in SPLITS:
        raise unknown("split", split, list(SPLITS))
    held_out = split == "test-unseen"
    scenarios = [s for s in town().scenarios.values() if s.held_out == held_out]
    rng = random.Random(f"smalltown/{split}/{seed}")
    seen: set[tuple[str, ...]] = set()
    while True:
        meaning = draw(rng, rng.choice(scenarios))
        key = (meaning.cell, *meaning.slots.values())
        if key in seen or split_of(meaning) != split:
            continue
        seen.add(key)
        yield meaning
