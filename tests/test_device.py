"""`onepass.serve`: compositions on llama.cpp, chosen per request; bad sets and dying engines."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from device_kit import CHAT, PAIR, engine_or_skip, opened, pair, random_parts
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.core.errors import OnepassError
from onepass.export import export_gguf
from onepass.export.manifest import read_set
from onepass.model.chat import prompt_ids
from onepass.model.generate import run
from onepass.model.load import Base
from onepass.serve import Engine
from onepass.serve.child import SPINS
from onepass.serve.modes import plan
from onepass.serve.verify import verify
from onepass.tasks.book import parse_task as named
from onepass.tasks.prompt import build_prompt
from onepass.tasks.task import Task

engine_or_skip()


@pytest.fixture(scope="module")
def engine(whole: Path) -> Iterator[Engine]:
    with opened(whole) as engine:
        yield engine


def test_running_needs_no_torch() -> None:
    code = "import sys, onepass.serve, onepass.cli.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_mode_in_any_order_is_what_pytorch_does(qwen: Base, whole: Path) -> None:
    """More combinations of scales than slots, so that slots change hands."""
    made = pair(qwen)
    summarize, spanish = (weighted.adapter for weighted in made.passes[0].adapters)
    passes = {
        "zero-shot": (Pass(named(PAIR)),),
        "main": (Pass(named(PAIR), (Weighted(summarize),)),),
        "multi-step": (
            Pass(named("summarize"), (Weighted(summarize),)),
            Pass(named("translate:es"), (Weighted(spanish),)),
        ),
        "composed": made.passes,
    }  # fmt: skip
    expected = {
        mode: run(qwen, Composition(qwen.shape, named(PAIR), each, mode), [CHAT], 8).texts[0]
        for mode, each in passes.items()
    }
    assert len(set(expected.values())) == len(expected)
    with opened(whole, slots=2) as engine:
        for _ in range(2):
            for mode, text in expected.items():
                assert engine.run("pair", CHAT, mode, 8).text == text, mode


def test_steps_are_taken_in_the_order_of_the_task(whole: Path) -> None:
    """Which the manifest's JSON does not keep: its keys are sorted."""
    manifest = read_set(whole)

    def first(task: str) -> list[str]:
        entry = manifest.composition("three").model_copy(update={"task": named(task)})
        changed = manifest.model_copy(update={"compositions": [entry]})
        (main,) = plan(changed, "three", "main")
        return list(main.scales)

    steps = [(pass_.task.name, *pass_.scales) for pass_ in plan(manifest, "three", "multi-step")]
    assert steps == [
        ("summarize", "summarize"), ("translate:es", "translate-es"), ("tone:witty", "tone-witty"),
    ]  # fmt: skip
    assert first("tone:witty+translate:es") == ["tone-witty"]
    assert first("translate:es+tone:witty") == ["translate-es"]


@pytest.mark.parametrize("mode", ["zero-shot", "main", "multi-step"])
def test_a_merged_base_does_nothing_but_the_composition(whole: Path, mode: str) -> None:
    manifest = read_set(whole)
    merged = manifest.model_copy(
        update={"base": manifest.base.model_copy(update={"merged": True}), "adapters": []}
    )
    assert plan(merged, "pair", "composed") == manifest.composition("pair").passes
    why = f"mode {mode} needs the adapters apart; the set's base is the whole composition"
    with pytest.raises(OnepassError, match=why):
        plan(merged, "pair", mode)


def test_each_composition_keeps_its_prompt_and_only_its_own(whole: Path) -> None:
    with opened(whole, slots=2) as engine:
        first = engine.run("three", CHAT)
        assert (first.cached_tokens, first.notice) == (0, "")
        assert min(first.read_seconds, first.write_seconds) > 0
        assert first.read_seconds + first.write_seconds <= first.seconds
        assert engine.run("pair", CHAT).cached_tokens == 0
        again = engine.run("three", CHAT)
        assert again.cached_tokens == again.prompt_tokens - 1
        assert again.text == first.text
        memory = engine.peak_memory()
        assert memory is None or memory > 1 << 20
    assert engine.peak_memory() is None


def test_requests_at_once_are_answered_as_one_by_one(whole: Path) -> None:
    asked = [(name, f"{CHAT}\nBen: {n}") for n in range(6) for name in ("three", "pair")]
    with opened(whole) as engine:
        alone = [engine.run(name, text, max_new_tokens=8).text for name, text in asked]
        with ThreadPoolExecutor(6) as pool:
            together = pool.map(
                lambda each: engine.run(each[0], each[1], max_new_tokens=8).text, asked
            )
            assert list(together) == alone


def test_a_long_conversation_loses_its_oldest_turns_as_in_pytorch(qwen: Base, whole: Path) -> None:
    long = "\n".join(f"Ana: It is {n} o'clock, é." for n in range(40))
    expected = run(qwen, pair(qwen), [long], max_new_tokens=8)
    with opened(whole) as engine:
        answer = engine.run("pair", long, max_new_tokens=8)
        every = engine.manifest.base.vocabulary
        assert len(engine.log_probabilities([5], {}, top=10 * every)) == every
        assert "oldest turns" in answer.notice
        assert (answer.text, answer.notice) == (expected.texts[0], expected.notices[0])
        with pytest.raises(OnepassError, match="max_new_tokens is 256"):
            engine.run("pair", CHAT, max_new_tokens=256)
        with pytest.raises(OnepassError, match=r"prompt of .* takes"):
            engine.run("pair", CHAT, max_new_tokens=240)
        assert engine.run("pair", CHAT, max_new_tokens=8).text  # and goes on


def test_only_who_has_the_key_is_answered(whole: Path) -> None:
    """The port is open to every user of the machine, and to any page in a browser."""
    with opened(whole) as engine:
        url = engine._process.url
        for path, body in (
            ("/completion", b'{"prompt": [5], "n_predict": 1}'),
            ("/tokenize", b'{"content": "a"}'),
            ("/lora-adapters", None),
            ("/slots", None),
            ("/props", None),
        ):
            for headers in ({}, {"Authorization": "Bearer guess"}):
                with pytest.raises(HTTPError) as refused:
                    urlopen(Request(url + path, body, headers), timeout=10)
                assert refused.value.code == 401, path
        assert engine.run("pair", CHAT, max_new_tokens=4).tokens


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda engine: engine.run("pear", CHAT), r"composition of this set 'pear'.*'pair'"),
        (lambda engine: engine.run("pair", CHAT, "mane"), r"mode 'mane'.*'main'"),
        (lambda engine: engine.complete([5], {"sumarize": 1.0}, 8), "this set 'sumarize'.*'summ"),
        (lambda engine: engine.run("pair", " \n"), r"text is ' \\n', which is empty"),
        (lambda engine: engine.run("pair", CHAT, max_new_tokens=0), "max_new_tokens is 0"),
        (lambda engine: engine.complete([5], {}, -1), "max_new_tokens is -1"),
        (lambda engine: engine.complete([], {}, 1), "prompt.* must not be empty"),
        (lambda engine: engine.complete([999], {}, 1), "Prompt contains invalid tokens"),
        (lambda engine: engine.complete([5], {"summarize": math.nan}, 1), "'summarize' is nan"),
        (lambda engine: engine.complete([5], {"summarize": math.inf}, 1), "'summarize' is inf"),
        (lambda engine: engine.log_probabilities([5], {}, top=-1), "top is -1"),
        (lambda engine: engine.log_probabilities([5], {}, top=0), "top is 0"),
    ],
)
def test_an_argument_that_makes_no_sense_is_named(
    ask: Callable[[Engine], Any], why: str, engine: Engine
) -> None:
    with pytest.raises(OnepassError, match=why):
        ask(engine)


TOO_MANY = (os.cpu_count() or 1) + 1  # threads wait for each other: llama.cpp would hang


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [
        *(("context", value, f"context {value}: expected 1 to 256") for value in (0, 999)),
        *(("slots", value, f"slots {value}: expected 1 to 256") for value in (0, 1000)),
        *(("timeout", value, "expected a positive") for value in (0, -1.0, math.nan)),
        *(("threads", value, f"threads {value}: expected 1 to") for value in (0, -1, TOO_MANY)),
    ],
)
def test_an_option_that_makes_no_sense_is_named(
    option: str, value: float, why: str, whole: Path
) -> None:
    with pytest.raises(OnepassError, match=why):
        opened(whole, **{option: value})


@pytest.mark.skipif(sys.platform != "linux", reason="llama.cpp uses libgomp on Linux alone")
@pytest.mark.parametrize(("own", "spins"), [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_soon_sleep_while_they_wait(
    whole: Path, monkeypatch: pytest.MonkeyPatch, own: dict[str, str], spins: str
) -> None:
    """Else several threads on a busy machine take seconds for milliseconds of work."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    for name, value in {**own, "OMP_DISPLAY_ENV": "verbose"}.items():
        monkeypatch.setenv(name, value)
    with opened(whole) as engine:
        engine._process._log.seek(0)
        assert f"GOMP_SPINCOUNT = '{spins}'" in engine._process._log.read()


# ---------------------------------------------------------------- engines that die
def gone(pid: int) -> bool:
    """Whether the process ends within a few seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("how", ["closed", "stopped", "forgotten"])
def test_an_engine_leaves_no_process(how: str, whole: Path) -> None:
    engine = opened(whole)
    pid, began = engine.pid, time.perf_counter()
    if how == "stopped":
        os.kill(pid, signal.SIGSTOP)
    if how != "forgotten":
        engine.close()
        engine.close()
    del engine
    assert gone(pid)
    assert time.perf_counter() - began < 2


def test_an_engine_does_not_outlive_who_opened_it(whole: Path) -> None:
    code = (
        "import os, sys; from onepass.serve import Engine; e = Engine(sys.argv[1], threads=1);"
        "print(e.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(whole)], capture_output=True, text=True, check=False
    )
    assert gone(int(done.stdout))


def test_a_system_message_and_a_longest_answer_go_along(qwen: Base, tmp_path: Path) -> None:
    """The set's frame for it gives the ids that PyTorch reads, alone and as a step."""
    brief = Task("brief", "Say it briefly.", system="You are brief.\nVery.", max_new_tokens=3)
    task = brief + named("translate:es")
    first, second = random_parts(qwen, 2)
    parts = (Weighted(first, 0.5), Weighted(second, 0.5))
    composition = Composition(qwen.shape, task, (Pass(task, parts),), "linear")
    export_gguf({"it": composition}, qwen, tmp_path / "set", "f32", "f32", vectors=True)
    assert list(read_set(tmp_path / "set").systems) == [brief.system]
    assert verify(tmp_path / "set", threads=1)
    with Engine(tmp_path / "set", threads=1) as engine:
        message = build_prompt(task, CHAT)
        assert (
            engine.prompt_ids(message, task.system)
            == (prompt_ids(qwen.tokenizer, [message], task.system)[0])
        )
        answer = engine.run("it", CHAT)
        assert answer.text == run(qwen, composition, [CHAT]).texts[0]
        assert answer.tokens <= 3
        assert engine.run("it", CHAT, max_new_tokens=1).tokens == 1
