"""The server itself: the queue, limits, keys, clients that hang up, an orderly end."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from onepass.core.errors import OnepassError
from onepass.serve.http.app import Limits, is_loopback
from onepass.serve.http.server import KEY as VARIABLE
from onepass.serve.http.server import find_key, listen
from serve_kit import KEY, Endless, Running, running, until


@pytest.fixture
def backend() -> Endless:
    return Endless()


@pytest.fixture
def server(backend: Endless) -> Iterator[Running]:
    with running(backend) as server:
        yield server


def test_the_openai_client_lists_asks_and_streams(server: Running) -> None:
    with server.client() as client:
        assert "echo" in [model.id for model in client.models.list()]
        assert client.models.retrieve("echo").owned_by == "onepass"
        done = client.chat.completions.create(
            model="echo", messages=[{"role": "user", "content": "one two three"}]
        )
        assert done.choices[0].message.content == "one two three"
        assert done.choices[0].finish_reason == "stop"
        assert done.usage is not None
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (3, 2)
        assert done.usage.total_tokens == 5
        stream = client.chat.completions.create(
            model="echo",
            messages=[{"role": "user", "content": "one two three"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        events = list(stream)
        assert "".join(e.choices[0].delta.content or "" for e in events[:-1]) == "one two three"
        assert events[0].choices[0].delta.role == "assistant"
        assert events[-2].choices[0].finish_reason == "stop"
        assert events[-1].usage is not None
        assert events[-1].usage.total_tokens == 5
        plain = client.completions.create(model="echo", prompt="one two")
        assert plain.choices[0].text == "one two"
        pieces = client.completions.create(model="echo", prompt="one two three", stream=True)
        assert "".join(each.choices[0].text for each in pieces) == "one two three"


def test_errors_are_those_of_the_openai_client(server: Running) -> None:
    with server.client() as client:
        with pytest.raises(openai.NotFoundError, match="did you mean 'echo'"):
            client.completions.create(model="ehco", prompt="x")
        with pytest.raises(openai.BadRequestError, match=r"max_tokens: .*greater.* found -1"):
            client.completions.create(model="echo", prompt="x", max_tokens=-1)
        with pytest.raises(openai.InternalServerError, match="internal error"):
            client.completions.create(model="broken", prompt="x")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("no/such")
    with server.client("wrong") as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_health_needs_no_key_and_nothing_else_does_without(server: Running) -> None:
    assert server.ask("GET", "/health", Authorization="")[0] == 200
    for method, path in (
        ("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/v1/other"),
        ("GET", "/healthy"),
    ):  # fmt: skip
        for key in ("", "Bearer", f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}"):
            assert server.ask(method, path, Authorization=key)[0] == 401


def test_a_failed_backend_shows_in_the_health(server: Running, backend: Endless) -> None:
    backend.failed = True
    status, said = server.ask("GET", "/health")
    assert (status, said["status"]) == (503, "failed")
    assert server.chat(model="echo")[0] == 503


def test_without_a_key_pages_of_other_sites_are_refused(backend: Endless) -> None:
    with running(backend, key=None) as server:
        body = json.dumps({"model": "echo", "prompt": "x"}).encode()
        path = "/v1/completions"
        assert server.ask("POST", path, body)[0] == 200
        assert server.ask("POST", path, body, Host="localhost:1")[0] == 200
        assert server.ask("POST", path, body, Host="[::1]:80")[0] == 200
        assert server.ask("POST", path, body, Content_Type="text/plain")[0] == 415
        assert server.ask("POST", path, body, Host="evil.example")[0] == 403
        assert server.ask("POST", path, body, Host="[")[0] in (400, 403)
        assert server.ask("GET", "/v1/models", Host="evil.example")[0] == 403


# ---------------------------------------------------------------- limits
def test_a_body_that_is_too_large_is_refused_and_the_next_answered(server: Running) -> None:
    large = json.dumps({"model": "echo", "prompt": "x" * 10_000_000}).encode()
    status, said = server.ask("POST", "/v1/completions", large)
    assert status == 413
    assert "1,048,576 bytes" in said["error"]["message"]
    fits = json.dumps({"model": "echo", "prompt": "x" * 1_000_000}).encode()
    assert server.ask("POST", "/v1/completions", fits)[0] == 200


def test_more_tokens_than_allowed_are_refused(backend: Endless) -> None:
    with running(backend, limits=Limits(tokens=10)) as server:
        assert server.chat(model="echo", max_tokens=10)[0] == 200
        assert server.chat(model="echo", max_completion_tokens=10)[0] == 200
        for field in ("max_tokens", "max_completion_tokens"):
            status, said = server.chat(model="echo", **{field: 11})
            assert status == 400
            assert said["error"]["param"] == field
            assert "allows 10 at most" in said["error"]["message"]
    assert [job.max_tokens for job in backend.jobs] == [10, 10]


def counted(server: Running) -> int:
    health = server.health()
    return int(health["running"] + health["waiting"])


def test_whoever_finds_the_queue_full_is_told_when_to_come_again(backend: Endless) -> None:
    with running(backend, limits=Limits(waiting=2)) as server, ThreadPoolExecutor(3) as pool:
        streams = [server.stream(model="endless") for _ in range(3)]
        opened = []
        for number, stream in enumerate(streams):  # they come in this order
            opened.append(pool.submit(stream.__enter__))
            until(lambda number=number: counted(server) == number + 1)  # type: ignore[misc]
        with server.client() as client, pytest.raises(openai.RateLimitError) as refused:
            client.completions.create(model="echo", prompt="x")
        assert int(refused.value.response.headers["Retry-After"]) >= 1
        for stream, first in zip(streams, opened, strict=True):
            first.result(20).read(10)  # each begins when the one before has hung up
            stream.__exit__(None, None, None)
        until(lambda: server.health()["running"] == 0)
        assert server.said("echo", "again") == "again"


def test_an_answer_that_takes_too_long_is_ended(backend: Endless) -> None:
    with running(backend, limits=Limits(seconds=0.3)) as server:
        status, said = server.chat(model="silent")
        assert (status, said["error"]["code"]) == (504, "timeout")
        with server.stream(model="endless") as answer:
            *_, last, _ = answer.read().decode().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
        until(lambda: backend.now == 0)


# ---------------------------------------------------------------- clients that hang up
@pytest.mark.parametrize("model", ["endless", "silent"])
@pytest.mark.parametrize("stream", [True, False])
def test_what_nobody_waits_for_is_not_generated(
    model: str, stream: bool, server: Running, backend: Endless
) -> None:
    body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "x"}]}
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + data)
        until(lambda: backend.now == 1)
    until(lambda: backend.now == 0)
    assert server.said("echo", "again") == "again"


def test_whoever_hangs_up_while_waiting_takes_no_turn(server: Running, backend: Endless) -> None:
    with server.stream(model="endless") as first:
        first.read(10)
        data = json.dumps({"model": "silent", "prompt": "never"}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
            until(lambda: server.health()["waiting"] == 1)
        until(lambda: server.health()["waiting"] == 0)
    until(lambda: backend.now == 0)
    assert [job.model for job in backend.jobs] == ["endless"]


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"\x00\xff\xfe garbage\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/models",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n{",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)  # fmt: skip
def test_a_cut_or_senseless_connection_harms_no_other(sent: bytes, server: Running) -> None:
    sent = sent.replace(b"Host: x", f"Host: x\r\nAuthorization: Bearer {KEY}".encode())
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(sent)
    assert server.said("echo", "still here") == "still here"


def test_sixteen_clients_at_once_get_each_its_own(backend: Endless) -> None:
    backend.at_once = 4
    with running(backend) as server, ThreadPoolExecutor(16) as pool:
        texts = [f"text {number} " * number for number in range(1, 17)]
        assert list(pool.map(lambda text: server.said("echo", text), texts)) == texts


# ---------------------------------------------------------------- the end
def test_running_answers_may_finish(backend: Endless) -> None:
    release = threading.Event()
    answer = backend.answer

    def slowly(job: Any, on_text: Any, stop: Any) -> Any:
        release.wait(10)
        return answer(job, on_text, stop)

    backend.answer = slowly  # type: ignore[method-assign]
    with running(backend) as server, ThreadPoolExecutor(1) as pool:
        said = pool.submit(server.said, "echo", "to the end")
        until(lambda: server.health()["running"] == 1)
        server.end()
        time.sleep(0.3)
        release.set()
        assert said.result(10) == "to the end"
        assert server.ended.wait(10)


def test_answers_that_do_not_finish_are_cut_after_the_grace(backend: Endless) -> None:
    with running(backend, grace=0.3) as server:
        with server.stream(model="endless") as answer:
            answer.read(10)
            server.end()
            said = answer.read().decode()
        assert "the server is shutting down" in said
        assert server.ended.wait(10)
    assert backend.now == 0
    with pytest.raises(OSError, match=r"."):
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()


def test_a_port_is_taken_once(server: Running) -> None:
    with pytest.raises(OnepassError, match=rf"port {server.port} of 127.0.0.1 is taken.*--port"):
        listen("127.0.0.1", server.port)
    with pytest.raises(OnepassError, match=r"cannot listen on port 0 of 192.0.2.1"):
        listen("192.0.2.1", 0)
    with pytest.raises(OnepassError, match="no port 70000"):
        listen("127.0.0.1", 70000)


# ---------------------------------------------------------------- keys
def test_a_key_is_given_or_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    (one, new), (other, _) = find_key(None, False, "0.0.0.0"), find_key(None, False, "127.0.0.1")
    assert new
    assert one != other
    assert len(str(one)) >= 32
    monkeypatch.setenv(VARIABLE, "k" * 16)
    assert find_key(None, False, "127.0.0.1") == ("k" * 16, False)
    file = tmp_path / "key"
    file.write_text("f" * 20 + "\n")
    assert find_key(file, False, "127.0.0.1") == ("f" * 20, False)
    assert find_key(None, True, "::1") == (None, False)


def test_what_is_no_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    file = tmp_path / "key"
    for content in ("", "short", "with a blank in the middle", "ü" * 20):
        file.write_text(content, encoding="utf-8")
        with pytest.raises(OnepassError, match=f"the key in {file} has"):
            find_key(file, False, "127.0.0.1")
    with pytest.raises(OnepassError, match="cannot read the key"):
        find_key(tmp_path / "none", False, "127.0.0.1")
    with pytest.raises(OnepassError, match=r"others can reach 0\.0\.0\.0"):
        find_key(None, True, "0.0.0.0")
    with pytest.raises(OnepassError, match="contradict"):
        find_key(file, True, "127.0.0.1")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("192.168.1.2", False), ("localhost.evil", False),
        ("", False), ("127.0.0.1.evil", False),
    ],
)  # fmt: skip
def test_what_is_this_machine(host: str, local: bool) -> None:
    assert is_loopback(host) is local
