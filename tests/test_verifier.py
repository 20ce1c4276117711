"""Laws of the verifier: it accepts every rendering and refuses every single corruption."""

import itertools
import random

import pytest

from onepass.smalltown.meaning import Meaning, draw_distinct, sample
from onepass.smalltown.read import Verdict, verify
from onepass.smalltown.render import texts
from onepass.smalltown.world import KINDS, LANGUAGES, TONES, language, town
from onepass.tasks.book import parse_task
from onepass.tasks.task import Task

CELLS = list(itertools.product(LANGUAGES, TONES))
ACCEPTED = 10_000  # meanings per language and tone


def task_for(kind: str, code: str, tone: str) -> Task:
    parts = ["summarize" if kind == "summary" else "reply"]
    parts += [f"translate:{code}"] if code != "en" else []
    parts += [f"tone:{tone}"] if tone != "plain" else []
    return parse_task("+".join(parts))


def verdict(text: str, meaning: Meaning, kind: str, code: str, tone: str) -> Verdict:
    meta = {"meaning": meaning.to_json(), "kind": kind}
    return verify(text, meta, task_for(kind, code, tone))


def meanings(count: int, seed: str) -> list[Meaning]:
    seen = itertools.islice(sample("train", seed), count * 9 // 10)
    unseen = itertools.islice(sample("test-unseen", seed), count // 10)
    return [*seen, *unseen]


@pytest.mark.parametrize(("code", "tone"), CELLS)
def test_accepts_every_rendering(code: str, tone: str) -> None:
    rng = random.Random(f"{code}{tone}")
    for meaning in meanings(ACCEPTED, f"accept/{code}/{tone}"):
        kind = rng.choice(KINDS)
        text = rng.choice(texts(meaning, kind, code, tone))
        result = verdict(text, meaning, kind, code, tone)
        assert result.verified, (text, result.why)
        assert result.share == 1.0 or kind == "reply"


def swap_slot(text: str, meaning: Meaning, code: str, rng: random.Random) -> str | None:
    """One slot's phrase replaced by the same form of another value."""
    types = town().scenarios[meaning.scenario].slots
    slot = rng.choice([s for s in meaning.slots if types[s] != "name"])
    kind, value = types[slot], meaning.slots[slot]
    other = draw_distinct(rng, kind, {value})
    for form, surface in sorted(
        language(code).forms[kind][value].items(), key=lambda f: -len(f[1])
    ):
        if surface in text:
            return text.replace(surface, language(code).forms[kind][other][form], 1)
    return None


def exchange_names(text: str, meaning: Meaning, code: str, rng: random.Random) -> str | None:
    """A name replaced by a stranger's."""
    name = rng.choice([meaning.slots["a"], meaning.slots["b"]])
    stranger = draw_distinct(rng, "name", set(meaning.slots.values()))
    return text.replace(name, stranger) if name in text else None


def swap_roles(text: str, meaning: Meaning, code: str, rng: random.Random) -> str | None:
    """Who did it and who had it done change places (no change where both do the same)."""
    a, b = meaning.slots["a"], meaning.slots["b"]
    if town().scenarios[meaning.scenario].symmetric or not (a in text and b in text):
        return None
    return text.replace(a, "\0").replace(b, a).replace("\0", b)


def truncate(text: str, meaning: Meaning, code: str, rng: random.Random) -> str | None:
    words = text.split()
    return " ".join(words[: -rng.randint(1, 3)])


def one_foreign_word(text: str, meaning: Meaning, code: str, rng: random.Random) -> str | None:
    """One phrase in another language: "the English summary with one Spanish word"."""
    other = rng.choice([c for c in LANGUAGES if c != code])
    types = town().scenarios[meaning.scenario].slots
    for slot in rng.sample(list(meaning.slots), len(meaning.slots)):
        forms = language(code).forms[types[slot]][meaning.slots[slot]]
        for surface in sorted(forms.values(), key=len, reverse=True):
            foreign = next(iter(language(other).forms[types[slot]][meaning.slots[slot]].values()))
            if surface in text and foreign not in forms.values():
                return text.replace(surface, foreign, 1)
    return None


def drop_a_word(text: str, meaning: Meaning, code: str, rng: random.Random) -> str | None:
    words = text.split()
    del words[rng.randrange(len(words))]
    return " ".join(words)


CORRUPTIONS = [swap_slot, exchange_names, swap_roles, truncate, one_foreign_word, drop_a_word]


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda f: f.__name__)
def test_refuses_corruptions(corrupt) -> None:  # type: ignore[no-untyped-def]
    tried = refused = 0
    for code, tone in CELLS:
        rng = random.Random(f"{corrupt.__name__}/{code}/{tone}")
        for meaning in meanings(150, f"corrupt/{code}/{tone}"):
            kind = rng.choice(KINDS)
            text = rng.choice(texts(meaning, kind, code, tone))
            corrupted = corrupt(text, meaning, code, rng)
            if corrupted is None or corrupted == text:
                continue
            tried += 1
            refused += not verdict(corrupted, meaning, kind, code, tone).verified
    assert tried > 1000
    assert refused / tried >= 0.995


def test_refuses_flipped_negation() -> None:
    tried = 0
    for code, tone in CELLS:
        for meaning in meanings(400, f"negation/{code}/{tone}"):
            scenario = town().scenarios[meaning.scenario]
            if meaning.outcome != "no":
                continue
            for kind in KINDS:
                # "Yes" wordings need slots that a refusal lacks: complete them from anywhere.
                filler = next(
                    m for m in meanings(400, "filler") if m.cell == f"{scenario.name}.yes"
                )
                flipped = Meaning(scenario.name, "yes", {**filler.slots, **{
                    s: v for s, v in meaning.slots.items() if s in filler.slots}})  # fmt: skip
                for text in texts(flipped, kind, code, tone):
                    result = verdict(text, meaning, kind, code, tone)
                    assert not result.facts
                    tried += 1
            break
    assert tried >= 40


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_another_language_or_tone_and_says_so(kind: str) -> None:
    (meaning,) = meanings(10, "other")[:1]
    for (code, tone), (other_code, other_tone) in itertools.product(CELLS, CELLS):
        if (code, tone) == (other_code, other_tone):
            continue
        for text in texts(meaning, kind, other_code, other_tone):
            result = verdict(text, meaning, kind, code, tone)
            assert not result.verified
            assert result.language == (code == other_code)
            assert result.tone == (tone == other_tone)
            assert ("language: " in result.why) == (code != other_code)
            assert ("tone: " in result.why) == (tone != other_tone)


def test_a_symmetric_meeting_may_be_told_from_either_side() -> None:
    meaning = next(m for m in meanings(200, "symmetric") if m.scenario == "meet")
    a, b = meaning.slots["a"], meaning.slots["b"]
    swapped = Meaning("meet", "", {**meaning.slots, "a": b, "b": a})
    text = texts(swapped, "summary", "en", "plain")[0]
    assert verdict(text, meaning, "summary", "en", "plain").verified


def test_the_verdict_says_what_is_wrong_in_words() -> None:
    slots = {"a": "Carmen", "b": "Tina", "place": "zoo", "day": "monday", "time": "5"}
    meaning = Meaning("meet", "", slots)
    other = Meaning("meet", "", {**slots, "day": "friday"})
    text = texts(other, "summary", "fr", "casual")[0]
    assert verdict(text, meaning, "summary", "es", "plain").why == (
        "facts: day is friday, not monday; language: fr, not es; tone: casual, not plain"
    )


@pytest.mark.parametrize(
    "text", ["", "Hola.", "🙂", "\0", "Ben " * 500, "The weather is awful today."]
)
def test_any_text_gets_a_verdict(text: str) -> None:
    (meaning,) = meanings(10, "any")[:1]
    result = verdict(text, meaning, "summary", "es", "plain")
    assert not result.verified
    assert result.why
