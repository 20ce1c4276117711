"""Answers of the device engine as they are generated, and what interrupts them."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures import build
from device_kit import CHAT, engine_or_skip, three_parts
from onepass.core.errors import OnepassError
from onepass.export import export_gguf
from onepass.export.manifest import MANIFEST, Manifest
from onepass.model.load import Base, load_base
from onepass.serve import Engine, process
from onepass.serve.stream import stripped

engine_or_skip()

ROOM = 8000
"""Tokens of context: more than the engine generates in the time it takes to interrupt it."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return load_base(build("qwen2.5", tmp_path_factory.mktemp("bases"), context=ROOM), "cpu")


@pytest.fixture(scope="module")
def device(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "device"
    export_gguf({"three": three_parts(base)}, base, folder, "f32", "f32")
    return folder


@pytest.fixture
def engine(device: Path) -> Iterator[Engine]:
    with Engine(device, context=ROOM, exact=True, threads=1) as engine:
        yield engine


SAID = "Té茶😀? ok"


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A base that says `SAID`, byte by byte: its last layer looks up what comes after a token."""
    folder = tmp_path_factory.mktemp("speaker")
    base = load_base(build("stablelm-2", folder / "base", vocab_size=262, hidden=64), "cpu")
    chain = [*base.tokenizer(f"\n{SAID}")["input_ids"], base.end_id]  # a frame ends with \n
    assert len(chain) == len(set(chain)) == len(SAID.encode()) + 2
    with torch.no_grad():
        for layer in base.model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        known = base.model.model.embed_tokens.weight
        for before, after in pairwise(chain):
            base.model.lm_head.weight[after] = known[before] * 100
    export_gguf({"three": three_parts(base)}, base, folder / "set", "f32", "f32")
    with Engine(folder / "set", exact=True, threads=1) as engine:
        yield engine


def test_a_streamed_answer_is_the_answer_wherever_it_is_cut(speaker: Engine) -> None:
    prompt = speaker.prompt_ids(CHAT)
    whole = speaker.complete(prompt, {}, 100)
    assert whole.text == SAID
    apart: list[str] = []
    speaker.complete(prompt, {}, 100, on_text=apart.append)
    assert apart == list(SAID)
    for most in range(1, len(whole.ids) + 2):
        pieces: list[str] = []
        expected = speaker.complete(prompt, {}, most)
        streamed = speaker.complete(prompt, {}, most, on_text=pieces.append)
        assert (len(streamed.ids), streamed.text) == (len(expected.ids), expected.text)
        assert "".join(pieces) == expected.text
        assert all(SAID.count(piece) for piece in pieces[:-1])
        pieces.clear()
        answer = speaker.run("three", CHAT, "zero-shot", most, on_text=pieces.append)
        assert (answer.text, answer.tokens) == (expected.text.strip(), len(expected.ids))
        assert "".join(pieces) == answer.text


@pytest.mark.parametrize("mode", ["zero-shot", "multi-step", "composed"])
def test_the_last_pass_is_streamed_and_nothing_else(engine: Engine, mode: str) -> None:
    for most in (1, 2, 3, 30):
        pieces: list[str] = []
        engine.run("three", CHAT, "zero-shot", 1)  # so that both find the same in their slots
        expected = engine.run("three", CHAT, mode, most)
        answer = engine.run("three", CHAT, mode, most, on_text=pieces.append)
        assert "".join(pieces) == answer.text == expected.text
        assert (answer.tokens, answer.prompt_tokens, answer.notice) == (
            expected.tokens, expected.prompt_tokens, "",
        )  # fmt: skip


def event(content: str, tokens: list[int], count: int) -> dict[str, Any]:
    return {"content": content, "tokens": tokens, "tokens_predicted": count, "stop": False}


def test_outer_whitespace_is_held_back() -> None:
    pieces: list[str] = []
    take = stripped(pieces.append)
    for piece in ("\n", " ", "a", " ", "\n", "b ", " c", "\n", ""):
        take(piece)
    assert pieces == ["a", " \nb", "  c"]


def test_a_stop_token_that_the_engine_does_not_know_ends_the_pieces_too(
    device: Path, engine: Engine
) -> None:
    scales = engine.manifest.composition("three").passes[0].scales
    prompt = engine.prompt_ids(CHAT)
    ids = engine.complete(prompt, scales, 30).ids
    path = device / MANIFEST
    written = path.read_text(encoding="utf-8")
    manifest = Manifest.model_validate_json(written)
    manifest.prompt.stop.append(ids[20])
    path.write_text(manifest.model_dump_json(), encoding="utf-8")
    place = ids.index(ids[20])
    try:
        with Engine(device, exact=True, threads=1) as other:
            for most in (30, place + 1):  # it may be the last one that is allowed, too
                pieces: list[str] = []
                expected = other.complete(prompt, scales, most)
                answer = other.complete(prompt, scales, most, on_text=pieces.append)
                assert expected.ids == ids[: place + 1]
                assert (answer.ids, answer.text) == (expected.ids, expected.text)
                assert "".join(pieces) == expected.text
    finally:
        path.write_text(written, encoding="utf-8")


# ---------------------------------------------------------------- what ends a stream early
def raises(error: BaseException) -> Callable[[str], None]:
    def on_text(piece: str) -> None:
        raise error

    return on_text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("mine"), OSError("mine")])
def test_an_interrupted_answer_is_not_generated_further(
    error: BaseException, engine: Engine
) -> None:
    expected = engine.run("three", CHAT, max_new_tokens=8).text
    with pytest.raises(type(error)) as raised:
        engine.complete(
            engine.prompt_ids(CHAT), {}, ROOM - 300, to_the_end=True, on_text=raises(error)
        )
    assert raised.value is error
    assert engine.run("three", CHAT, max_new_tokens=8).text == expected
    assert idle(engine) < ROOM / 2


def idle(engine: Engine) -> int:
    """Waits until nothing is generated; the most tokens that a slot then holds."""
    for _ in range(500):
        slots = engine._process.ask("/slots")
        if not any(slot["is_processing"] for slot in slots):
            return max(int(slot["n_prompt_tokens"]) for slot in slots)
        time.sleep(0.02)
    raise AssertionError("it goes on and on")


def test_ctrl_c_while_nothing_comes_ends_the_request(engine: Engine) -> None:
    """As a signal, which interrupts the reading itself; without `on_text` it is only given up."""
    expected = engine.run("three", CHAT, max_new_tokens=8).text
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for on_text in (None, lambda piece: os.kill(engine.pid, signal.SIGSTOP)):
            prompt = engine.prompt_ids(CHAT)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                engine.complete(prompt, {}, ROOM - 300, True, on_text)
            os.kill(engine.pid, signal.SIGCONT)
            assert engine.run("three", CHAT, max_new_tokens=8).text == expected
        assert idle(engine) < ROOM / 2
    finally:
        signal.signal(signal.SIGALRM, before)


def test_every_pass_can_be_interrupted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp ends only what it streams."""
    streamed = []
    stream = engine._process.stream

    def watched(path: str, *more: Any) -> Any:
        streamed.append(path)
        return stream(path, *more)

    monkeypatch.setattr(engine._process, "stream", watched)
    engine.run("three", CHAT, "multi-step", 4, on_text=print)
    assert len(streamed) == 3


@pytest.mark.parametrize("streamed", [False, True])
def test_an_engine_killed_in_mid_answer_stays_closed(streamed: bool, engine: Engine) -> None:
    prompt, on_text = engine.prompt_ids(CHAT), (lambda piece: None) if streamed else None
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(engine.complete, prompt, {}, ROOM - 300, True, on_text)
        time.sleep(0.1)
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(OnepassError, match="ended by signal 9; open it again"):
            answer.result(timeout=20)
    assert engine.closed
    assert engine.peak_memory() is None
    with pytest.raises(OnepassError, match="the engine is closed"):
        engine.run("three", CHAT, on_text=on_text)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_engine_closed_in_mid_answer_ends_at_once(streamed: bool, engine: Engine) -> None:
    prompt, on_text = engine.prompt_ids(CHAT), (lambda piece: None) if streamed else None
    with ThreadPoolExecutor(2) as pool:
        answers = [
            pool.submit(engine.complete, prompt, scales, ROOM - 300, True, on_text)
            for scales in ({}, {engine.adapters[0]: 1.0})
        ]
        time.sleep(0.2)  # one is answered, the other waits its turn
        began = time.perf_counter()
        engine.close()
        assert time.perf_counter() - began < 1
        told = sorted(str(answer.exception(timeout=10)) for answer in answers)
        assert time.perf_counter() - began < 2
    assert told == [
        "the engine is closed; open it again",
        "the engine was closed before it had answered; open it again",
    ]
    assert all(isinstance(answer.exception(), OnepassError) for answer in answers)
    assert engine.peak_memory() is None


@pytest.mark.parametrize("streamed", [False, True])
def test_an_engine_that_hangs_is_given_up_and_may_go_on(streamed: bool, device: Path) -> None:
    with Engine(device, context=ROOM, threads=1, timeout=1.0) as engine:

        def stop(piece: str = "") -> None:
            os.kill(engine.pid, signal.SIGSTOP)

        expected = engine.run("three", CHAT, max_new_tokens=8).text
        prompt = engine.prompt_ids(CHAT)
        asked = (ROOM - 300, True, stop) if streamed else (8,)
        if not streamed:
            stop()
        with pytest.raises(OnepassError, match=r"not answered for 1 s"):
            engine.complete(prompt, {}, *asked)
        os.kill(engine.pid, signal.SIGCONT)
        assert engine.run("three", CHAT, max_new_tokens=8).text == expected


@pytest.mark.parametrize("on_text", [None, print])
def test_a_refusal_is_reported_and_the_engine_goes_on(on_text: Any, engine: Engine) -> None:
    with pytest.raises(OnepassError, match=rf"refuses.*{2 * ROOM} tokens.*context"):
        engine.complete([5] * 2 * ROOM, {}, 8, on_text=on_text)
    assert engine.complete([5], {}, 8).ids


class Failing(BaseHTTPRequestHandler):
    """Streams a piece, and then what its server has as `last`."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"data: " + json.dumps(event("a", [5], 1)).encode() + b"\n\n")
        self.wfile.write(self.server.last)  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (b'data: {"error": {"message": "Compute error."}}\n\n', "refuses.*: Compute error."),
        (b"data: {", "does not answer any more"),
        (b"", "does not answer any more"),
    ],
)
def test_a_stream_that_fails_is_told(
    last: bytes, why: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(process, "_GRACE", 0.1)
    with HTTPServer(("127.0.0.1", 0), Failing) as server:
        server.last = last  # type: ignore[attr-defined]
        threading.Thread(target=server.handle_request, daemon=True).start()
        with monkeypatch.context() as patched:
            patched.setattr(engine._process, "url", f"http://127.0.0.1:{server.server_port}")
            with pytest.raises(OnepassError, match=why):
                engine.complete([5], {}, 8, on_text=pieces.append)
    assert pieces == ["a"]


def test_on_text_may_use_the_engine(engine: Engine) -> None:
    expected = engine.run("three", CHAT, max_new_tokens=4)
    seen = []

    def on_text(piece: str) -> None:
        seen.append(engine.tokenize(piece))
        assert engine.run("three", CHAT, max_new_tokens=4).text == expected.text

    assert engine.run("three", CHAT, max_new_tokens=4, on_text=on_text).text == expected.text
    assert seen
