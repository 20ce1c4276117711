"""Laws of the embedded world: splits, determinism, conversations that hold what is asked for."""

import hashlib
import itertools
import math
import random
import re
from importlib.resources import files

import pytest

from onepass.core.errors import OnepassError
from onepass.smalltown.corpus import Smalltown
from onepass.smalltown.meaning import Meaning, sample, split_of, values_of
from onepass.smalltown.pretrain import MIX, documents
from onepass.smalltown.read import read
from onepass.smalltown.render import conversation, texts, turns
from onepass.smalltown.world import (
    KINDS,
    LANGUAGES,
    TONES,
    Wording,
    capitalised,
    language,
    town,
    wanted,
)
from onepass.tasks.benchmark import COMPOSITIONAL_TASKS, SINGLE_TASKS
from onepass.tasks.book import parse_task

SPLITS = ("train", "validation", "test")
PINNED = "35242b7aed5c35d19873511e3bce6d45f6fd5873ddadb5c66a7c335fd5c6f8d9"


def some(split: str, count: int, seed: str = "tests") -> list[Meaning]:
    return list(itertools.islice(sample(split, seed), count))


def slots_of(wording: Wording) -> set[str]:
    return {piece.slot for piece in wording if piece.slot}


def count_meanings() -> int:
    """How many distinct meanings the town has."""
    total = 0
    for scenario in town().scenarios.values():
        for used in scenario.outcomes.values():
            kinds = [scenario.slots[slot] for slot in used]
            total += math.prod(
                math.perm(len(values_of(kind)), kinds.count(kind)) for kind in sorted(set(kinds))
            )
    return total


def test_there_are_ten_million_meanings_in_twelve_scenarios() -> None:
    assert count_meanings() >= 10**7
    assert len(town().scenarios) >= 12
    assert sum(s.held_out for s in town().scenarios.values()) == 2


def test_no_slot_combination_is_in_two_splits() -> None:
    seen: dict[tuple[str, ...], str] = {}
    for split in SPLITS:
        for seed in ("summarize", "tone:witty"):
            for meaning in some(split, 1500, seed):
                key = (meaning.scenario, *sorted(f"{s}={v}" for s, v in meaning.slots.items()))
                assert seen.setdefault(key, split) == split


def test_held_out_scenarios_are_only_in_their_own_split() -> None:
    for split in SPLITS:
        assert not any(town().scenarios[m.scenario].held_out for m in some(split, 300))
    assert all(town().scenarios[m.scenario].held_out for m in some("test-unseen", 100))


def test_streams_are_the_same_on_every_machine() -> None:
    """A digest pins the generator: what changes it also changes every published figure."""
    digest = hashlib.sha256()
    for name in ("summarize+translate:de", "tone:casual", "reply+tone:paraphrase"):
        for split in SPLITS:
            for example in Smalltown().examples(parse_task(name), split, 20):
                digest.update(f"{example.input}\n{example.target}\n".encode())
    assert digest.hexdigest() == PINNED


def test_a_larger_limit_starts_with_the_same_examples() -> None:
    task = parse_task("summarize+translate:fr")
    few, more = (Smalltown().examples(task, "train", limit) for limit in (10, 30))
    assert more[:10] == few


def test_conversations_have_two_speakers_and_four_to_ten_turns_and_end_with_a() -> None:
    rng = random.Random(1)
    lengths = set()
    for split in ("train", "test-unseen"):
        for meaning in some(split, 1500):
            said = turns(meaning, rng, unseen=split != "train")
            lengths.add(len(said))
            assert {who for who, _ in said} == {meaning.slots["a"], meaning.slots["b"]}
            assert said[-1][0] == meaning.slots["a"]
            assert all(one[0] != other[0] for one, other in itertools.pairwise(said))
    assert min(lengths) >= 4
    assert max(lengths) <= 10


def test_a_conversation_says_every_fact() -> None:
    rng = random.Random(2)
    for split in ("train", "test-unseen"):
        for meaning in some(split, 800):
            text = conversation(meaning, rng, unseen=rng.random() < 0.5)
            types = town().scenarios[meaning.scenario].slots
            for slot, value in meaning.slots.items():
                forms = language("en").forms[types[slot]][value].values()
                assert any(form in text or capitalised(form) in text for form in forms), slot


def test_test_only_wordings_are_never_in_training_conversations() -> None:
    rng = random.Random(3)
    seen = {turns(m, rng)[0][1].split()[0] for m in some("train", 500)}
    assert seen  # lines exist; the real check follows, wording by wording
    for scenario in town().scenarios.values():
        for turn in scenario.turns:
            if len(turn.wordings) >= 3:
                only, known = turn.usable(unseen=True), turn.usable(unseen=False)
                assert not set(only) & set(known)
                assert set(only) | set(known) == set(turn.wordings)


def test_conversations_of_the_split_of_wordings_retell_those_of_test() -> None:
    task = parse_task("summarize+translate:es")
    told, retold = (Smalltown().examples(task, s, 40) for s in ("test", "test-wordings"))
    assert [e.targets for e in told] == [e.targets for e in retold]
    assert not {e.input for e in told} & {e.input for e in retold}
    with pytest.raises(OnepassError, match="tone:witty has no split test-wordings"):
        Smalltown().examples(parse_task("tone:witty"), "test-wordings", 1)


def test_a_target_is_a_function_of_the_input() -> None:
    """The first wording, whatever the example: greedy decoding could not guess a random one."""
    for name in ("summarize", "reply+translate:fr", "summarize+tone:professional", "tone:casual"):
        task = parse_task(name)
        for example in Smalltown().examples(task, "train", 60):
            meaning = Meaning.from_json(example.meta["meaning"])
            assert example.targets == tuple(
                texts(meaning, example.meta["kind"], wanted(task).language, wanted(task).tone)
            )


def test_a_translation_has_the_wording_of_its_source() -> None:
    places = set()
    for example in Smalltown().examples(parse_task("translate:de"), "train", 60):
        meaning, kind, tone = (example.meta[key] for key in ("meaning", "kind", "tone"))
        meaning = Meaning.from_json(meaning)
        place = texts(meaning, kind, "en", tone).index(example.input)
        assert example.target == texts(meaning, kind, "de", tone)[place]
        places.add((tone == "plain", place))
    assert places == {(plain, place) for plain in (True, False) for place in (0, 1)}


@pytest.mark.parametrize("code", LANGUAGES)
def test_languages_say_the_same(code: str) -> None:
    """Every language has the same values, cells and tones, and each wording the same slots."""
    ours, english = language(code), language("en")
    assert {k: list(v) for k, v in ours.forms.items()} == {
        k: list(v) for k, v in english.forms.items()
    }
    for kind in KINDS:
        assert list(ours.texts[kind]) == list(english.texts[kind])
        for cell, tones in english.texts[kind].items():
            scenario, _, outcome = cell.partition(".")
            facts = set(town().scenarios[scenario].outcomes[outcome])
            for tone in TONES:
                texts = ours.texts[kind][cell][tone]
                assert len(texts) == len(tones[tone])
                for wording in texts:
                    # A reply may leave unsaid who speaks, nothing else.
                    unsaid = facts - slots_of(wording)
                    assert unsaid <= ({"b"} if kind == "reply" else set()), (cell, tone)


def test_every_form_tells_its_value() -> None:
    for code in LANGUAGES:
        for kind, values in language(code).forms.items():
            told = [set(forms.values()) for forms in values.values()]
            assert len(set().union(*told)) == sum(map(len, told)), (code, kind)


@pytest.mark.parametrize(
    "name", [*SINGLE_TASKS, *COMPOSITIONAL_TASKS, "summarize+translate:fr+tone:witty"]
)
def test_targets_of_every_task_read_as_that_task(name: str) -> None:
    task = parse_task(name)
    for example in Smalltown().examples(task, "validation", 15):
        for target in example.targets:
            reading = read(target)
            assert reading is not None
            assert reading.language == wanted(task).language
            assert reading.tone == example.meta.get("tone", wanted(task).tone)
            assert reading.kind == example.meta["kind"]


def test_pretraining_never_sees_a_compositional_task_nor_other_splits() -> None:
    instructions = {parse_task(name).instruction for name in COMPOSITIONAL_TASKS}
    kinds = set()
    for document in itertools.islice(documents("tests"), 3000):
        assert not any(instruction in document.prompt for instruction in instructions)
        kinds.add(document.prompt.split("\n")[0])
        reading = read(document.text)
        if reading is not None and {"a", "b"} <= set(reading.meaning.slots):
            assert split_of(reading.meaning) == "train"
            asked_about_a_conversation = "\n" in document.prompt.partition("\n\n")[2]
            if asked_about_a_conversation:
                assert (reading.language, reading.tone) == ("en", "plain")
    assert sum(MIX.values()) == 100
    assert len(kinds) > 20


def test_the_data_statement_tells_the_shares_of_the_documents() -> None:
    statement = (files("onepass") / "assets" / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)`: .* \| (\d+) \|$", statement, re.MULTILINE)
    assert told == [(make.__name__.lstrip("_"), str(share)) for make, share in MIX.items()]


def test_a_meaning_survives_json_and_foreign_ones_are_refused() -> None:
    (meaning,) = some("train", 1)
    assert Meaning.from_json(meaning.to_json()) == meaning
    with pytest.raises(OnepassError, match="unknown scenario 'meat': did you mean 'meet'"):
        Meaning.from_json({**meaning.to_json(), "scenario": "meat"})
    with pytest.raises(OnepassError, match="not a meaning"):
        Meaning.from_json({"scenario": "meet"})


def test_unknown_split_names_near_ones() -> None:
    with pytest.raises(OnepassError, match="did you mean 'validation'"):
        Smalltown().examples(parse_task("reply"), "valid")
