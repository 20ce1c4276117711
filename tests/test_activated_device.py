"""Activated compositions on llama.cpp: one reading of a conversation, whatever is asked of it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activated_device_kit import (
    SPANISH,
    TALK,
    TURNS,
    WITTY,
    activated,
    activated_parts,
    multi_step,
    ordinary,
    said,
    save_mixed,
    tiny,
)
from activated_kit import log_probabilities, prompt_of
from device_kit import edit, engine_or_skip, opened, put, sign
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.core.errors import OnepassError
from onepass.export import export_gguf
from onepass.export.manifest import read_set
from onepass.model.attach import attached
from onepass.model.load import Base
from onepass.serve import Engine
from onepass.serve import activated as serving
from onepass.serve.activated import EARLY, last_place, to_load
from onepass.serve.process import EngineProcess
from onepass.serve.verify import verify
from onepass.tasks.book import parse_task
from onepass.tasks.task import Task

engine_or_skip()
import gguf  # noqa: E402

COUNT = 10


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of activated and ordinary compositions; not to be changed."""
    folder = tmp_path_factory.mktemp("sets") / "mixed"
    save_mixed(tiny(), folder, vectors=True, compactly=True)
    return folder


@pytest.fixture
def engine(mixed: Path) -> Iterator[Engine]:
    with opened(mixed) as engine:
        yield engine


# ---------------------------------------------------------------- files
def test_each_activated_file_states_its_invocation_as_llama_cpp_reads_it(mixed: Path) -> None:
    manifest = read_set(mixed)
    (bracket,) = {tuple(each.invocation) for each in manifest.activations}
    stated = {}
    for adapter in manifest.adapters:
        field = gguf.GGUFReader(mixed / adapter.path).get_field("adapter.alora.invocation_tokens")
        stated[adapter.name] = tuple(field.contents()) if field else ()
        assert stated[adapter.name] == tuple(adapter.invocation)
        if field:
            assert field.types == [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT32]
    assert {name: bool(ids) for name, ids in stated.items()} == {
        "summarize": True, "translate-es": True, "calibration-spanish": True, "tone-witty": True,
        "summarize-2": False, "translate-es-2": False,
    }  # fmt: skip
    assert set(stated.values()) == {bracket, ()}
    for entry in manifest.compositions:
        assert entry.activated == (entry.name != "plain")
        if entry.fused:
            reader = gguf.GGUFReader(mixed / entry.fused.path)
            found = reader.get_field("adapter.alora.invocation_tokens")
            assert (tuple(found.contents()) if found else ()) == (
                bracket if entry.activated else ()
            )


def test_test_vectors_are_of_the_bare_base_up_to_the_invocation(base: Base, mixed: Path) -> None:
    manifest = read_set(mixed)
    for checked in verify(mixed, threads=1):
        assert checked.difference < 1e-3
    vector = next(each for each in manifest.vectors if each.composition == "spanish")
    (pass_,) = activated(base).passes
    start = manifest.activation(pass_.task).start(vector.prompt)  # type: ignore[union-attr]
    worst = {start: 0.0, start - 1: 0.0, 0: 0.0}
    for place, top in enumerate(vector.top):
        ids = [*vector.prompt, *vector.tokens[:place]]
        for each in worst:
            found = log_probabilities(base, pass_, ids, each)
            differences = [abs(float(found[token]) - value) for token, value in top.items()]
            worst[each] = max(worst[each], *differences)
    assert worst[start] < 1e-4
    assert min(worst[start - 1], worst[0]) > 5 * vector.tolerance


def test_verify_finds_an_adapter_that_acts_from_elsewhere(mixed: Path, tmp_path: Path) -> None:
    folder = Path(save_copy(mixed, tmp_path))

    def elsewhere(manifest: dict[str, Any]) -> None:
        for each in manifest["activations"]:
            each["tail"] = each["tail"][1:]
            each["invocation"] = each["tail"][:1]

    edit(folder, elsewhere)
    with pytest.raises(OnepassError, match=r"differ by|invocation_tokens"):
        verify(folder, threads=1)


def test_verify_finds_files_that_were_exchanged(mixed: Path, tmp_path: Path) -> None:
    folder = Path(save_copy(mixed, tmp_path))
    manifest = read_set(folder)
    paths = {adapter.name: folder / adapter.path for adapter in manifest.adapters}
    from onepass.export.gguf.compact import expand

    expand(paths["summarize"], folder / "other", manifest.base.blocks, [5, 6])
    (folder / "other").replace(paths["summarize"])
    sign(folder)
    with pytest.raises(OnepassError, match=r"\[62\] for adapter.alora.* which has \[5, 6\]"):
        verify(folder, threads=1)


def save_copy(folder: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_set_of_an_older_format_still_loads(whole: Path, device: Path) -> None:
    def older(manifest: dict[str, Any]) -> None:
        manifest["format"] = "onepass device 4"
        del manifest["activations"]
        for adapter in manifest["adapters"]:
            del adapter["invocation"]

    edit(device, older)
    assert read_set(device).model_copy(update={"format": "onepass device 5"}) == read_set(whole)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (put("adapters.0.invocation", []), r"'summarize'.* acts on the whole prompt, for task"),
        (put("adapters.5.invocation", [62]), r"'translate-es-2'.* acts from an invocation on"),
        (put("activations", []), "does not say where the adapters of task"),
        (put("activations.0.invocation", [7]), "tail should begin with the invocation"),
        (put("activations.0.tail", []), "tail"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any]], None], why: str, mixed: Path, tmp_path: Path
) -> None:
    folder = save_copy(mixed, tmp_path)
    edit(folder, change)
    with pytest.raises(OnepassError, match=why):
        read_set(folder)


def test_no_base_that_is_summed_into_holds_an_activated_composition(
    base: Base, tmp_path: Path
) -> None:
    from device_kit import random_calibration

    with pytest.raises(OnepassError, match=r"acts only from its invocation on.*leave out --merged"):
        export_gguf({"it": activated(base)}, base, tmp_path / "a", merged=True)
    biased = activated(base)
    (pass_,) = biased.passes
    biased = replace(
        biased, passes=(replace(pass_, calibration=random_calibration(base, "output")),)
    )
    with pytest.raises(OnepassError, match=r"only from its invocation on.*--form column"):
        export_gguf({"it": biased}, base, tmp_path / "b")


# ---------------------------------------------------------------- what is computed
TEXTS = (
    TALK,
    f"{TALK}\nAna: [Summarize the conversation in Spanish.] says the form.",
    "[[[ Ana: hm ] [Summarize",
    f"{TALK}\n\n[Summarize the conversation.]<|end|><|assistant|>\nAna: what?",
)


def passes_of(base: Base, mode: str) -> dict[str, tuple[Pass, ...]]:
    made: dict[str, tuple[Pass, ...]] = {}
    for name, words in (("spanish", SPANISH), ("witty", WITTY)):
        composition = activated(base, words)
        main, second = (Weighted(weighted.adapter) for weighted in composition.passes[0].adapters)
        first, last = composition.task.parts
        made[name] = {
            "composed": composition.passes,
            "main": (Pass(composition.task, (main,)),),
            "multi-step": (Pass(first, (main,)), Pass(last, (second,))),
            "zero-shot": (Pass(composition.task),),
        }[mode]
    return made


def test_every_mode_on_every_text_is_what_pytorch_does(base: Base, engine: Engine) -> None:
    """Through one engine, in turn, so that all share a cache; texts may spell the invocation."""
    for text in TEXTS:
        for mode in ("composed", "main", "multi-step", "composed", "zero-shot"):
            for name, passes in passes_of(base, mode).items():
                found = engine.run(name, text, mode, COUNT).text.strip()
                assert found == said(base, passes, text, COUNT), (name, mode, text)
        assert engine.run("steps", text, max_new_tokens=COUNT).text.strip() == said(
            base, multi_step(base).passes, text, COUNT
        )
        found = engine.run("plain", text, max_new_tokens=COUNT).text.strip()
        (pass_,) = ordinary(base).passes
        assert found == said(base, (pass_,), text, COUNT)


def test_log_probabilities_are_those_of_pytorch(base: Base, engine: Engine) -> None:
    for name, words in (("spanish", SPANISH), ("witty", WITTY)):
        (pass_,) = activated(base, words).passes
        ids, start = prompt_of(base, pass_.task, TALK)
        (run,) = engine.passes(name)
        found = engine.log_probabilities(ids, run.scales)
        expected = log_probabilities(base, pass_, ids, start)
        assert max(abs(expected[token] - value) for token, value in found.items()) < 1e-4


# ---------------------------------------------------------------- what is read
def test_one_reading_serves_every_activated_composition(base: Base, engine: Engine) -> None:
    ids, start = prompt_of(base, parse_task(SPANISH).activated(), TALK)
    first = engine.run("spanish", TALK, max_new_tokens=COUNT)
    assert (first.prompt_tokens, first.cached_tokens) == (len(ids), 0)
    assert 0 < first.first_seconds <= first.seconds
    for name, mode in (
        ("witty", "composed"), ("spanish", "main"), ("steps", "composed"), ("plain", "composed"),
        ("witty", "multi-step"), ("witty", "zero-shot"), ("spanish", "composed"),
    ):  # fmt: skip
        answer = engine.run(name, TALK, mode, COUNT)
        if (name, mode) in (("plain", "composed"), ("witty", "zero-shot")):
            assert answer.cached_tokens == 0
        elif name == "steps" or mode == "multi-step":
            assert answer.cached_tokens >= start
        else:
            assert answer.cached_tokens == start


def test_a_conversation_is_read_as_it_grows(base: Base, engine: Engine) -> None:
    task = parse_task(SPANISH).activated()
    known = 0
    for count in range(1, len(TURNS) + 1):
        text = "\n".join(TURNS[:count])
        _, start = prompt_of(base, task, text)
        reading = engine.read(text)
        assert reading.prompt_tokens == start
        assert reading.cached_tokens >= known - 2  # the empty line after the text, which is to go
        assert reading.seconds > 0
        known = start
    again = engine.read(TALK, "witty")
    assert again.cached_tokens == again.prompt_tokens == known
    answer = engine.run("witty", TALK, max_new_tokens=COUNT)
    assert answer.cached_tokens == known
    assert answer.text.strip() == said(base, activated(base, WITTY).passes, TALK, COUNT)
    assert engine.run("spanish", TALK, max_new_tokens=COUNT).cached_tokens == known


@pytest.mark.parametrize("text", TEXTS)
def test_what_was_read_ahead_changes_no_answer(text: str, base: Base, engine: Engine) -> None:
    engine.run("spanish", TALK, max_new_tokens=COUNT)
    reading = engine.read(text)
    answer = engine.run("witty", text, max_new_tokens=COUNT)
    assert answer.cached_tokens == reading.prompt_tokens
    assert answer.text.strip() == said(base, activated(base, WITTY).passes, text, COUNT)


def test_a_text_that_goes_on_with_the_invocation_is_not_read_by_the_adapter(
    base: Base, engine: Engine
) -> None:
    """llama.cpp alone compares tokens, and would take what the adapter has changed for bare."""
    task = parse_task(SPANISH).activated()
    trap = f"{task.message(TALK)}\nAna: What?"
    for aside in ("composed", "multi-step"):
        engine.run("spanish", TALK, aside, COUNT)
        answer = engine.run("spanish", trap, max_new_tokens=COUNT)
        assert answer.cached_tokens == 0
        assert answer.text.strip() == said(base, activated(base).passes, trap, COUNT)
    (pass_,) = activated(base).passes
    (run,) = engine.passes("spanish")
    ids, start = prompt_of(base, task, trap)
    engine.run("spanish", TALK, max_new_tokens=COUNT)
    found = engine.log_probabilities(ids, run.scales)
    expected = log_probabilities(base, pass_, ids, start)
    assert max(abs(expected[token] - value) for token, value in found.items()) < 1e-4


def test_a_conversation_that_does_not_fit_loses_its_oldest_turns(mixed: Path, base: Base) -> None:
    long = "\n".join(f"{TURNS[n % 4]} {n}" for n in range(12))
    with opened(mixed, context=120) as engine:
        reading = engine.read(long, max_new_tokens=COUNT)
        answer = engine.run("witty", long, max_new_tokens=COUNT)
        assert "oldest turns" in answer.notice
        assert "oldest turns" in reading.notice
        (pass_,) = engine.passes("witty")
        ids, _ = engine.fitted(pass_, long, COUNT)
        assert len(ids) + COUNT <= 120


# ---------------------------------------------------------------- refused
def test_an_engine_that_does_not_know_invocations_is_refused(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would let the adapters act on all of a prompt, and say nothing."""
    ask = EngineProcess.ask

    def older(self: EngineProcess, path: str, body: dict[str, Any] | None = None) -> Any:
        reply = ask(self, path, body)
        if path == "/lora-adapters":
            return [{k: v for k, v in each.items() if "alora" not in k} for each in reply]
        return reply

    monkeypatch.setattr(EngineProcess, "ask", older)
    with pytest.raises(OnepassError, match=r"finds the invocation \[\] in adapter .* pip install"):
        opened(mixed)


def test_an_engine_that_begins_elsewhere_is_refused(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "EARLY", 0)
    with pytest.raises(OnepassError, match=r"act from token 1 of a prompt on, .* from token 2 on"):
        opened(mixed)


def test_what_cannot_be_read_ahead_is_refused(whole: Path, engine: Engine) -> None:
    with pytest.raises(OnepassError, match="composition 'plain' is not activated"):
        engine.read(TALK, "plain")
    with pytest.raises(OnepassError, match="unknown composition of this set 'plane'"):
        engine.read(TALK, "plane")
    with pytest.raises(OnepassError, match="text is ' ', which is empty"):
        engine.read(" ")
    with opened(whole) as other, pytest.raises(OnepassError, match="no composition of this set"):
        other.read(TALK)


@pytest.mark.parametrize(
    ("scales", "why"),
    [
        (
            {"summarize": 1.0, "translate-es": 1.0},
            "one activated adapter at a time.*summarize at 1",
        ),
        ({"summarize": 1.0, "summarize-2": 1.0}, "one activated adapter at a time"),
        ({"summarize": -1.0}, "at a positive scale; found summarize at -1"),
        ({"summarize": 1.0}, "does not have the invocation of adapter 'summarize'"),
    ],
)
def test_scales_that_llama_cpp_cannot_activate_are_refused(
    scales: dict[str, float], why: str, engine: Engine
) -> None:
    with pytest.raises(OnepassError, match=why):
        engine.complete(engine.tokenize("Ana: Tea?"), scales, 4)


# ---------------------------------------------------------------- what is loaded
@given(
    before=st.lists(st.integers(0, 3), max_size=8), wanted=st.lists(st.integers(0, 3), min_size=1)
)
def test_an_invocation_at_the_end_is_always_found(before: list[int], wanted: list[int]) -> None:
    assert last_place(wanted, [*before, *wanted]) == len(before)


@given(ids=st.lists(st.integers(0, 2), max_size=12), wanted=st.lists(st.integers(0, 2), min_size=1))
def test_what_is_found_is_the_invocation(ids: list[int], wanted: list[int]) -> None:
    found = last_place(wanted, ids)
    if found is not None:
        assert ids[found : found + len(wanted)] == wanted
    elif len(wanted) == 1:
        assert wanted[0] not in ids


def test_an_adapter_is_loaded_once_for_prompts_that_begin_alike(mixed: Path) -> None:
    manifest = read_set(mixed)
    loaded = {each.name: each for each in to_load(manifest)}
    assert list(loaded) == [
        "fused/spanish",
        "summarize",
        "translate-es",
        "fused/witty",
        "tone-witty",
    ]
    assert len(loaded["summarize"].tails) == 3  # in Spanish, in a witty tone, and alone
    for each in loaded.values():
        for tail in each.tails:
            assert each.start(tail) == 0
            assert each.start([7, *each.invocation, *tail]) == 1 + len(each.invocation)


def test_an_adapter_is_loaded_twice_for_prompts_that_do_not(base: Base, tmp_path: Path) -> None:
    """As the main adapter of a combination whose wording is all its own."""
    first, second = parse_task(SPANISH).activated().parts
    own = Task(
        "it", "Escribe un resumen.", prompt="{text}\n\n[{instruction}]", activate="[",
        composed_of=(first, second),
    )  # fmt: skip
    weighted = tuple(Weighted(adapter, 0.5) for adapter in activated_parts(base, SPANISH))
    composition = Composition(base.shape, own, (Pass(own, weighted),), "linear")
    export_gguf({"it": composition}, base, tmp_path / "set", "f32", "f32")
    main = Pass(own, (Weighted(weighted[0].adapter),))
    alone = Pass(first, main.adapters)
    last = Pass(second, (Weighted(weighted[1].adapter),))
    with opened(tmp_path / "set") as engine:
        assert engine.adapters == ["fused/it", "summarize", "summarize/2", "translate-es"]
        found = engine.run("it", TALK, "main", COUNT).text.strip()
        assert found == said(base, (main,), TALK, COUNT)
        found = engine.run("it", TALK, "multi-step", COUNT).text.strip()
        assert found == said(base, (alone, last), TALK, COUNT)


def test_a_single_adapter_runs_at_its_weight(base: Base, tmp_path: Path) -> None:
    task = parse_task("summarize").activated()
    (adapter,) = activated_parts(base, "summarize")
    made = {}
    for name, weight in (("half", 0.5), ("less", -0.5)):
        pass_ = Pass(task, (Weighted(adapter, weight),))
        made[name] = Composition(base.shape, task, (pass_,), "scaled")
    export_gguf(made, base, tmp_path / "set", "f32", "f32", vectors=True)
    verify(tmp_path / "set", threads=1)
    with opened(tmp_path / "set") as engine:
        assert engine.adapters == ["summarize", "fused/less"]
        for name, composition in made.items():
            found = engine.run(name, TALK, max_new_tokens=COUNT).text.strip()
            assert found == said(base, composition.passes, TALK, COUNT)


def test_a_task_that_acts_from_the_last_token_of_its_prompt_on_is_refused(
    base: Base, tmp_path: Path
) -> None:
    task = Task("it", "Say it.", prompt="{text}\n\n{instruction}", activate="<|assistant|>")
    (adapter,) = activated_parts(base, "summarize")
    pass_ = Pass(task, (Weighted(replace(adapter, invocation=(3,))),))
    composition = Composition(base.shape, task, (pass_,), "it")
    assert EARLY == 1
    export_gguf({"it": composition}, base, tmp_path / "set", "f32", "f32")
    with pytest.raises(OnepassError, match="acts from the last token of its prompts on"):
        opened(tmp_path / "set")


def test_the_folded_computation_of_a_part_is_the_oracle(base: Base) -> None:
    """The oracle itself, acting from the first token on, is the ordinary computation."""
    import torch

    (pass_,) = activated(base).passes
    ids, _ = prompt_of(base, pass_.task, TALK)
    with torch.inference_mode(), attached(base, pass_):
        expected = base.model(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
    torch.testing.assert_close(log_probabilities(base, pass_, ids, 0), expected)


def test_a_set_is_run_without_a_cache_too(mixed: Path, base: Base) -> None:
    with opened(mixed, cache=False) as engine:
        for _ in range(2):
            answer = engine.run("spanish", TALK, max_new_tokens=4)
            assert answer.text == said(base, activated(base).passes, TALK, 4)
            assert answer.cached_tokens == 0
