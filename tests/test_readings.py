"""What is kept of texts read, and asking several things of one reading."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import onepass as op
from activated_kit import BOTH, TEXTS, active, composed, pair_on, pass_on
from conftest import MakeAdapter
from onepass.adapters.composition import Pass, Weighted
from onepass.api.objects import Composition, own
from onepass.core.errors import OnepassError
from onepass.methods import METHODS, Setting
from onepass.model.activation import activation_of
from onepass.model.attach import attached, folded
from onepass.model.chat import prompt_ids
from onepass.model.generate import run
from onepass.model.load import Base
from onepass.model.reading import Readings
from onepass.model.tokens import encode_examples
from onepass.tasks.book import parse_task
from onepass.tasks.example import Example
from onepass.tasks.task import Task

PutOn = Callable[[Base, Pass], AbstractContextManager[None]]


# ---------------------------------------------------------------- what is kept
def ids_of(count: int, length: int = 9) -> list[list[int]]:
    random = torch.Generator().manual_seed(1)
    return [torch.randint(5, 290, (length + i,), generator=random).tolist() for i in range(count)]


def test_a_text_is_read_once(base: Base) -> None:
    readings = Readings(base.model, base.name)
    first = readings.read(ids_of(5))
    taken = readings.tokens_read
    again = readings.read(ids_of(5)[::-1])
    assert readings.tokens_read == taken
    assert [id(each) for each in again] == [id(each) for each in first[::-1]]


@pytest.mark.parametrize("share", [0, 0.5])
def test_no_more_than_the_limit_is_kept(base: Base, share: float) -> None:
    in_memory = Readings(base.model, base.name).read(ids_of(6))
    limit = int(share * sum(each.kept.nbytes for each in in_memory))
    small = Readings(base.model, base.name, limit)
    for one, other in zip(small.read(ids_of(6)), in_memory, strict=True):
        assert torch.equal(one.kept, other.kept)
    assert sum(each.kept.nbytes for each in small._known.values()) <= limit
    assert small.lacks(ids_of(6))
    assert small.lacks(ids_of(6)[:1]) is (share == 0)


def test_the_texts_read_last_are_kept(base: Base) -> None:
    texts = ids_of(4, 20)
    size = Readings(base.model, base.name).read(texts[3:])[0].kept.nbytes
    readings = Readings(base.model, base.name, limit=int(2.5 * size))
    for text in texts:
        readings.read([text])
    taken = readings.tokens_read
    readings.read(texts[2:])
    assert readings.tokens_read == taken
    readings.read(texts[:1])
    assert readings.tokens_read > taken


@pytest.mark.parametrize("put", [attached, folded])
def test_only_the_bare_base_reads(base: Base, put: PutOn) -> None:
    with put(base, pass_on(base)), pytest.raises(OnepassError, match="has a composition on it"):
        base.readings.read(ids_of(1))
    Readings(base.model, base.name).read(ids_of(1))


# ---------------------------------------------------------------- one reading, many answers
def test_every_composition_answers_from_one_reading(base: Base) -> None:
    alone = Base(base.model, base.tokenizer, base.name, base.device)  # which has read nothing
    one = alone.read(TEXTS)
    taken = alone.readings.tokens_read
    for task in ("summarize", "reply+tone:witty", BOTH):
        composition = composed(base, pass_on(base, task=task))
        assert one.answer(composition, 8).texts == run(base, composition, TEXTS, 8).texts
    assert alone.readings.tokens_read == taken
    assert repr(one).startswith("<Reading of 3 texts, ")


def test_a_reading_refuses_what_it_is_not_for(base: Base, make_adapter: MakeAdapter) -> None:
    one = base.read(TEXTS[0], room=60)
    ordinary = Pass(parse_task("summarize"), (Weighted(make_adapter()),))
    with pytest.raises(OnepassError, match="acts on every token"):
        one.answer(composed(base, ordinary))
    other = Pass(replace(active("summarize"), system="Be brief."))
    with pytest.raises(OnepassError, match="begins otherwise"):
        one.answer(composed(base, other))
    shown = Pass(active("summarize"), shots=(("Ana: Yes.", "Ana agrees."),))
    with pytest.raises(OnepassError, match="1 solved examples"):
        one.answer(composed(base, shown))
    with pytest.raises(OnepassError, match="'FOLDER' is a str"):
        one.answer("FOLDER")  # type: ignore[arg-type]
    with pytest.raises(OnepassError, match="read with room="):
        one.answer(composed(base, Pass(active("summarize"))), max_new_tokens=base.context - 20)


def test_a_text_is_shortened_alike_for_all(base: Base) -> None:
    long = "\n".join(f"Ana: Shall we meet at {n}?" for n in range(60))
    one = base.read([long], room=60)
    assert "oldest turns" in one.notices[0]
    assert long.endswith(one.texts[0])
    for task in ("summarize", BOTH):
        composition = composed(base, pass_on(base, task=task))
        assert one.answer(composition, 8).texts == run(base, composition, one.texts, 8).texts


def test_a_loop_of_ones_own_is_refused(base: Base) -> None:
    """There it would act on every token, silently."""
    made = own(Composition, composed(base, pass_on(base)))
    with pytest.raises(OnepassError, match=r"acts from '\[' on"), made.attached(base):
        pass


def test_ten_lines_of_python(base: Base, examples: list[Example], tmp_path: Path) -> None:
    rows = [(example.input, example.target) for example in examples]
    quick: dict[str, Any] = {"base": base, "max_steps": 2, "progress": False}
    one, two = (op.train(task, rows, rank=2, activated=True, **quick) for task in BOTH.split("+"))
    composed = op.calibrate(BOTH, [one, two], rows, out=tmp_path / "both", **quick)
    assert composed.task.activate == "["
    answers = base.read(TEXTS).answer(composed, 8).texts
    assert answers == op.generate(op.load(tmp_path / "both"), TEXTS, base=base, max_new_tokens=8)
    assert op.generate(one, TEXTS, task="summarize", base=base, max_new_tokens=4) == (
        op.generate(one, TEXTS, base=base, max_new_tokens=4)
    )
    plain = op.train("translate:es", rows, rank=2, **quick)
    with pytest.raises(OnepassError, match="one pass does either"):
        op.calibrate(BOTH, [one, plain], rows, **quick)


def test_what_cannot_be_read(base: Base) -> None:
    with pytest.raises(OnepassError, match="texts to read are strings"):
        base.read([3])  # type: ignore[list-item]
    with pytest.raises(OnepassError, match="room is 0"):
        base.read(TEXTS, room=0)
    glued = Task("t", "Do it.", prompt="{text}[{instruction}]", activate="[")
    bare = Base(base.model, copy.deepcopy(base.tokenizer), base.name, base.device)
    bare.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert activation_of(bare.tokenizer, glued).start(prompt_ids(bare.tokenizer, ["Hi[Do it.]"])[0])
    with pytest.raises(OnepassError, match="nothing before the words"):
        encode_examples(bare, glued, [Example("1", "", ("No.",))])


def test_an_adapter_needs_words_to_act_from(base: Base) -> None:
    parts = dict(zip(BOTH.split("+"), pair_on(base), strict=True))
    setting = Setting(base, parse_task(BOTH), parts, options={"prompt_style": "empty"})
    with pytest.raises(OnepassError, match="no words to act from"):
        METHODS.get("multi-step").build(setting)
