"""A device set on llama.cpp as models: the answers are those of the engine, with every client."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from activated_device_kit import TALK, save_mixed
from device_kit import edit, engine_or_skip, put
from onepass.core.errors import OnepassError
from onepass.export import export_gguf
from onepass.model.chat import conversation_ids, prompt_ids
from onepass.serve import Engine
from onepass.serve.http.backend import BASE
from onepass.serve.http.on_llama import Hidden, LlamaBackend
from onepass.serve.process import EngineProcess
from onepass.serve.slots import Slots
from onepass.serve.stop import Stop, Stopped
from serve_kit import CHATS, Running, compositions, running, tiny, until

engine_or_skip()

NAMES = ["both", "steps", "summarize", "translate-es", "both:multi-step", "both:zero-shot"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of a merge and of two steps, in 32 bits."""
    folder = tmp_path_factory.mktemp("sets") / "set"
    export_gguf(compositions(), tiny(), folder, "f32", "f32")
    return folder


@pytest.fixture(scope="module")
def backend(folder: Path) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(folder, 4, 200, True, exact=True, threads=1)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def server(backend: LlamaBackend) -> Iterator[Running]:
    with running(backend) as server:
        yield server


@pytest.fixture(scope="module")
def alone(folder: Path) -> Iterator[Engine]:
    """An engine that is asked by one client."""
    with Engine(folder, exact=True, threads=1, slots=1, fused=["both"]) as engine:
        yield engine


def expected(engine: Engine, name: str, text: str, most: int) -> str:
    composition, _, mode = name.partition(":")
    if name in ("summarize", "translate-es"):
        entry = engine.manifest.composition("both")
        (part,) = (part for part in entry.task.parts if entry.parts[part.name] == name)
        return engine.run_passes([engine.adapter_pass(part, name)], text, most).text
    return engine.run(composition, text, mode or "composed", most).text


def test_every_composition_adapter_and_mode_is_a_model(server: Running) -> None:
    _, said = server.ask("GET", "/v1/models")
    passes = {each["id"]: each["passes"] for each in said["data"]}
    assert passes == dict.fromkeys([*NAMES, "steps:zero-shot", BASE], 1) | {
        "steps": 2, "both:multi-step": 2,
    }  # fmt: skip


def test_sixteen_clients_at_once_get_what_one_gets(server: Running, alone: Engine) -> None:
    """The same model side by side, others in turn; most of them are asked for several times."""
    names = [NAMES[number % len(NAMES)] for number in range(10)] + ["both"] * 6
    texts = [CHATS[number % len(CHATS)] for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        said = list(pool.map(lambda name, text: server.said(name, text, 20), names, texts))
    assert said == [expected(alone, n, t, 20) for n, t in zip(names, texts, strict=True)]
    assert len(set(said)) > 8
    assert server.health()["running"] == 0


def test_the_pieces_of_a_stream_are_the_answer(server: Running, alone: Engine) -> None:
    for name in ("both", "steps"):
        with server.client() as client:
            events = list(
                client.chat.completions.create(
                    model=name,
                    messages=[{"role": "user", "content": CHATS[2]}],
                    stream=True,
                    stream_options={"include_usage": True},
                )
            )
        text = "".join(event.choices[0].delta.content or "" for event in events[:-1])
        answer = alone.run(name, CHATS[2])
        assert text == answer.text
        assert events[-1].usage is not None
        assert events[-1].usage.completion_tokens == answer.tokens
        assert events[-1].usage.prompt_tokens == answer.prompt_tokens
        assert events[-2].choices[0].finish_reason == "stop"


def test_an_answer_that_was_cut_says_so(server: Running) -> None:
    for model in ("both", BASE):
        _, said = server.chat(
            model=model, max_tokens=3, messages=[{"role": "user", "content": CHATS[0]}]
        )
        assert said["choices"][0]["finish_reason"] == "length"
        assert said["usage"]["completion_tokens"] == 3


# ---------------------------------------------------------------- the base
CONVERSATION = [
    {"role": "system", "content": "Be nice."}, {"role": "user", "content": "Hello <|end|> there"},
    {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Again"},
]  # fmt: skip


def test_a_conversation_has_the_ids_of_the_bases_own_template(backend: LlamaBackend) -> None:
    tokenizer = tiny().tokenizer
    assert backend._prompt(tuple(CONVERSATION)) == conversation_ids(tokenizer, CONVERSATION)
    one = ({"role": "user", "content": CHATS[0]},)
    assert backend._prompt(one) == prompt_ids(tokenizer, [CHATS[0]])[0]


def test_a_base_without_a_template_gets_blank_lines(backend: LlamaBackend) -> None:
    backend._template = False
    try:
        ids = backend._prompt(tuple(CONVERSATION))
    finally:
        backend._template = True
    tokenize, prompt = backend._engine.tokenize, backend._engine.manifest.prompt
    assert ids == [
        *prompt.before, *tokenize("Be nice.\n\n"), *tokenize("Hello <|end|> there\n\n"),
        *tokenize("Hi"), prompt.stop[0], *tokenize("Again\n\n"),
    ]  # fmt: skip


def test_control_tokens_are_hidden_and_found_again() -> None:
    hidden = Hidden(["<a>", "<a>b", "|"])
    safe = [hidden.hide(text) for text in ("x<a>by", "no", "<a>|")]
    assert not any(letter in "".join(safe) for letter in "<>|")
    pieces = hidden.pieces("".join(safe))
    assert "".join(text for text, _ in pieces) == "x<a>byno<a>|"
    assert [text for text, spelt in pieces if spelt] == ["<a>b", "<a>", "|"]


# ---------------------------------------------------------------- what ends early
def test_llama_cpp_stops_when_a_client_hangs_up(server: Running, backend: LlamaBackend) -> None:
    with server.stream(model=BASE, max_tokens=900, messages=LONG) as answer:
        answer.read(200)
    began = time.monotonic()
    slots = idle(backend)
    assert time.monotonic() - began < 5
    assert max(slots) < 800
    assert server.health()["running"] == 0
    assert server.said("both", CHATS[0], 5)


LONG = [{"role": "user", "content": "Repeat: " + "harbour market theatre " * 40}]


def idle(backend: LlamaBackend) -> list[int]:
    """Waits until nothing is generated; the tokens that the slots then hold."""
    process: EngineProcess = backend._engine._process
    until(lambda: not any(slot["is_processing"] for slot in process.ask("/slots")))
    return [int(slot.get("n_prompt_tokens", 0)) for slot in process.ask("/slots")]


def test_a_stop_ends_whatever_is_waited_for(alone: Engine) -> None:
    """Also while nothing comes, because llama.cpp is busy with another request or reads."""
    stop = Stop()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(
            alone.complete, alone.prompt_ids("x"), {}, 900, True, lambda piece: None, stop=stop
        )
        until(lambda: bool(alone._slots._running))
        waits = Stop()
        passes = alone.passes("steps")
        second = pool.submit(alone.run_passes, passes, CHATS[0], 5, print, waits)
        until(lambda: len(alone._slots._queue) == 1)
        waits.set()
        with pytest.raises(Stopped):
            second.result(5)
        stop.set()
        with pytest.raises(Stopped):
            first.result(5)
    with pytest.raises(Stopped):
        alone.run_passes(passes, CHATS[0], 5, print, stop)
    assert alone.run("steps", CHATS[0], max_new_tokens=5).text


def test_an_engine_that_died_is_told(folder: Path) -> None:
    backend = LlamaBackend(folder, 1, 50, False, threads=1)
    try:
        with running(backend) as server:
            backend.close()
            status, said = server.ask("GET", "/health")
            assert (status, said["status"]) == (503, "failed")
            status, said = server.chat(model="both")
            assert status == 503
            assert "start the server again" in said["error"]["message"]
    finally:
        backend.close()


# ---------------------------------------------------------------- turns
def test_only_requests_with_the_same_scales_run_side_by_side() -> None:
    slots = Slots(2)

    def taken(scales: tuple[float, ...]) -> Any:
        return slots.taken([1, 2], scales, None, ahead=False, aside=False, stop=Stop())

    order: list[str] = []

    def run(name: str, scales: tuple[float, ...]) -> None:
        with taken(scales) as (slot, _):
            order.append(f"{name} in {slot}")

    with ThreadPoolExecutor(4) as pool, ThreadPoolExecutor(1) as elsewhere:
        first, second = taken((1.0,)), taken((1.0,))
        slot = first.__enter__()[0]
        other = elsewhere.submit(second.__enter__).result(5)[0]
        assert {slot, other} == {0, 1}
        waiting = pool.submit(run, "other", (2.0,))
        until(lambda: len(slots._queue) == 1)
        late = pool.submit(run, "same", (1.0,))  # does not overtake
        until(lambda: len(slots._queue) == 2)
        first.__exit__(None, None, None)
        time.sleep(0.05)
        assert not order
        second.__exit__(None, None, None)
        waiting.result(5), late.result(5)
    assert [each.split()[0] for each in order] == ["other", "same"]


def test_activated_compositions_are_answered_one_by_one(tmp_path: Path) -> None:
    save_mixed(tiny(), tmp_path / "mixed", compactly=True)
    texts = [TALK, TALK + "\nAna: Good.", CHATS[0], CHATS[1]] * 4
    names = ["spanish", "witty", "steps", "plain"] * 2 + ["spanish"] * 8
    with Engine(tmp_path / "mixed", exact=True, threads=1) as engine:
        one = [engine.run(n, t, max_new_tokens=6).text for n, t in zip(names, texts, strict=True)]
    backend = LlamaBackend(tmp_path / "mixed", 3, 50, True, exact=True, threads=1)
    try:
        with running(backend) as server, ThreadPoolExecutor(16) as pool:
            said = list(pool.map(lambda name, text: server.said(name, text, 6), names, texts))
    finally:
        backend.close()
    assert said == one


# ---------------------------------------------------------------- names
def test_names_that_are_taken(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "set"))
    edit(copy, put("compositions.0.name", "summarize"))
    backend = LlamaBackend(copy, 1, 50, False, threads=1)
    backend.close()
    assert {"summarize", "adapter:summarize", "steps"} <= set(backend.models)
    edit(copy, put("compositions.0.name", "base"))
    with pytest.raises(OnepassError, match="called 'base'"):
        LlamaBackend(copy, 1, 50, False, threads=1)
