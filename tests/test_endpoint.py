"""Asking a server: every prompt gets its answer or its reason, whatever the server does."""

import os
import re
import signal
import socket
import threading
import time
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest

from endpoint_kit import completion, endpoint, serving
from onepass.core.errors import OnepassError
from onepass.serve import endpoint as module
from onepass.serve.endpoint import Endpoint, Response, Spent, ask

PROMPTS = [f"prompt {number}" for number in range(12)]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.01)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.delenv(module.KEY, raising=False)


def echo(prompt: str, times: int) -> Any:
    return f"Echo of {prompt}"


def texts(responses: list[Response]) -> list[str | None]:
    return [response.text for response in responses]


def test_answers_are_in_the_order_of_prompts_and_passed_on_as_they_come() -> None:
    passed: dict[int, Response] = {}
    threads = set()

    def on_response(place: int, response: Response) -> None:
        passed[place] = response
        threads.add(threading.current_thread())

    def slowest_first(prompt: str, times: int) -> Any:
        time.sleep(0.2 if prompt == "prompt 0" else 0.01)
        return echo(prompt, times)

    with serving(slowest_first) as stub:
        responses = ask(endpoint(stub), PROMPTS, max_new_tokens=7, on_response=on_response)
    assert texts(responses) == [f"Echo of {prompt}" for prompt in PROMPTS]
    assert [passed[place] for place in range(12)] == responses
    assert next(iter(passed)) != 0
    assert threads == {threading.current_thread()}
    assert 1 < stub.busiest <= 4
    assert stub.requests[0] == {
        "model": "stub",
        "messages": [{"role": "user", "content": stub.asked[0]}],
        "temperature": 0.0,
        "max_tokens": 7,
    }


BAD = {
    "busy": (429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}),
    "busy until a date": (429, "{}", {"Retry-After": formatdate(time.time() - 5)}),
    "broken": 500,
    "bad gateway": (502, "<html>Bad gateway</html>"),
    "cut": None,
    "slow": 4.0,
    "garbage": (200, "{'choices': [}"),
    "html": (200, "<html>It works!</html>"),
    "nothing": (200, ""),
    "a number": (200, "7"),
    "an empty object": (200, {}),
    "no choices": (200, {"choices": []}),
    "null choices": (200, {"choices": None}),
    "choices of a wrong type": (200, {"choices": {"message": "x"}}),
    "a message of a wrong type": (200, {"choices": [{"message": "x"}]}),
    "content of a wrong type": (200, completion(["x"])),
    "null content": (200, completion(None)),
    "empty content": (200, completion(" \n")),
    "nested without end": (200, "[" * 200_000),
}


def patience(bad: str) -> float:
    """Seconds: short only where the test waits for it; a busy machine is slow with any answer."""
    return 1.5 if bad == "slow" else 60.0


@pytest.mark.parametrize("bad", BAD)
def test_a_failed_attempt_is_repeated(bad: str) -> None:
    def reply(prompt: str, times: int) -> Any:
        return BAD[bad] if prompt == "prompt 1" and times < 2 else echo(prompt, times)

    with serving(reply) as stub:
        responses = ask(endpoint(stub, timeout=patience(bad)), PROMPTS[:3], max_new_tokens=5)
    assert texts(responses) == ["Echo of prompt 0", "Echo of prompt 1", "Echo of prompt 2"]
    assert stub.asked.count("prompt 1") == 3
    assert stub.asked.count("prompt 0") == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("busy", "429: slow down"),
        ("broken", "500: status 500"),
        ("bad gateway", "502: <html>Bad gateway"),
        ("cut", "the connection failed"),
        ("slow", "no answer within 1.5 s"),
        ("html", "no choices[0].message.content in '<html>It works!"),
        ("no choices", "no choices[0].message.content"),
        ("null content", "content is None"),
    ],
)
def test_a_prompt_that_fails_for_good_says_why_and_the_others_go_on(bad: str, reason: str) -> None:
    def reply(prompt: str, times: int) -> Any:
        return BAD[bad] if prompt == "prompt 1" else echo(prompt, times)

    with serving(reply) as stub:
        where = endpoint(stub, timeout=patience(bad), retries=1)
        responses = ask(where, PROMPTS[:3], max_new_tokens=5)
    assert texts(responses) == ["Echo of prompt 0", None, "Echo of prompt 2"]
    assert reason in responses[1].error
    assert stub.asked.count("prompt 1") == 2


def test_a_request_the_server_cannot_serve_is_not_repeated() -> None:
    too_long = (400, {"error": {"message": "the prompt is longer than the context"}})
    with serving(lambda prompt, times: too_long) as stub:
        responses = ask(endpoint(stub), PROMPTS, max_new_tokens=5)
    assert len(stub.asked) == len(PROMPTS)  # nor does it count as a sign that all is lost
    assert all("longer than the context" in response.error for response in responses)


def test_an_answer_that_was_cut_off_says_so() -> None:
    def reply(prompt: str, times: int) -> Any:
        texts = {"prompt 0": "Half an ans", "prompt 1": None}
        reason = "length" if prompt in texts else "stop"
        return (200, completion(texts.get(prompt, "Whole."), finish_reason=reason))

    with serving(reply) as stub:
        half, none, whole = ask(endpoint(stub), PROMPTS[:3], max_new_tokens=5)
    assert (half.text, half.cut) == ("Half an ans", True)
    assert (whole.text, whole.cut) == ("Whole.", False)
    assert (none.text, none.cut) == (None, True)
    assert none.error == "cut off at 5 tokens before any text; allow more"
    assert len(stub.asked) == 3  # the same request would end so again


def test_a_model_that_never_comes_to_its_answer_ends_the_asking() -> None:
    thinking = (200, completion(None, finish_reason="length"))
    with (
        serving(lambda prompt, times: thinking) as stub,
        pytest.raises(OnepassError, match=r"10 prompts in a row .* cut off at 5 tokens"),
    ):
        ask(endpoint(stub, concurrency=1), PROMPTS, max_new_tokens=5)
    assert len(stub.asked) == 10


def test_the_wait_a_server_asks_for_is_kept() -> None:
    stamps = []

    def reply(prompt: str, times: int) -> Any:
        stamps.append(time.monotonic())
        return (503, "{}", {"Retry-After": "0.3"}) if times < 2 else "Done"

    with serving(reply) as stub:
        assert texts(ask(endpoint(stub), ["x"], max_new_tokens=5)) == ["Done"]
    assert all(later - earlier >= 0.3 for earlier, later in pairwise(stamps))


def test_a_wait_of_a_day_is_reported_instead() -> None:
    with serving(lambda prompt, times: (429, "{}", {"Retry-After": "86400"})) as stub:
        (response,) = ask(endpoint(stub), ["x"], max_new_tokens=5)
    assert len(stub.asked) == 1
    assert "429: {} (Retry-After: 86400)" in response.error


def test_an_answer_that_drips_is_given_up() -> None:
    """A timeout that starts anew with every byte would never end."""
    stop = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not stop.wait(0.05):
            try:
                connection.sendall(b" ")
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        began = time.monotonic()
        where = Endpoint(url, "stub", timeout=0.3, retries=0)
        (response,) = ask(where, ["x"], max_new_tokens=5)
        stop.set()
    assert time.monotonic() - began < 10
    assert "within 0.3 s" in response.error


# ------------------------------------------------------------------ what is wrong for all prompts


def test_an_address_where_nothing_answers_is_reported_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(OnepassError, match=f"nothing answers at http://127.0.0.1:{port}/v1"):
        ask(Endpoint(f"http://127.0.0.1:{port}/v1", "stub"), PROMPTS, max_new_tokens=5)


def test_a_server_that_goes_away_ends_the_asking() -> None:
    def reply(prompt: str, times: int) -> Any:
        if prompt == "prompt 1":
            threading.Thread(target=stub.shutdown).start()
            stub.socket.close()
            return None
        return echo(prompt, times)

    kept: dict[int, Response] = {}
    with serving(reply) as stub:
        where = endpoint(stub, concurrency=1, retries=1)
        prompts = [f"prompt {number}" for number in range(40)]
        with pytest.raises(OnepassError, match=r"10 prompts in a row.*the connection failed"):
            ask(where, prompts, max_new_tokens=5, on_response=kept.__setitem__)
    assert kept[0].text == "Echo of prompt 0"


@pytest.mark.parametrize("bad", ["html", "broken", "empty content"])
def test_a_server_without_a_usable_answer_ends_the_asking(bad: str) -> None:
    with (
        serving(lambda prompt, times: BAD[bad]) as stub,
        pytest.raises(OnepassError, match="10 prompts in a row had no answer, with 1 retries"),
    ):
        ask(endpoint(stub, retries=1), [*PROMPTS, *PROMPTS], max_new_tokens=5)
    assert len(stub.asked) < 30


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_reported_at_once_and_never_shown(status: int) -> None:
    secret = "sk-very-secret-123"
    body = {"error": {"message": f"Incorrect API key provided: {secret}"}}
    with serving(lambda prompt, times: (status, body)) as stub:
        where = endpoint(stub, key=secret, concurrency=1)
        with pytest.raises(OnepassError, match="ONEPASS_API_KEY") as error:
            ask(where, PROMPTS, max_new_tokens=5)
        assert stub.keys == {f"Bearer {secret}"}
    assert secret not in str(error.value)
    assert secret not in repr(where)
    assert len(stub.asked) == 1


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.KEY, "from-the-environment")
    assert Endpoint("http://x/v1", "m").key == "from-the-environment"
    monkeypatch.setenv(module.KEY, "with a\nnewline")
    with pytest.raises(OnepassError, match="copy it again") as error:
        Endpoint("http://x/v1", "m")
    assert "newline" not in str(error.value)


NO_MODEL = {"error": {"message": "no such model", "code": "model_not_found"}}
NO_CREDIT = {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}


@pytest.mark.parametrize(
    ("reply", "models", "changes", "words", "requests"),
    [
        ((404, NO_MODEL), ("small", "large"), {}, "no model 'stub'; it has small, large", 1),
        ((404, NO_MODEL), ("stub",), {}, "404: no such model.*usually ends in /v1", 1),
        ((429, NO_CREDIT), ("stub",), {"retries": 1}, "no credit is left .You exceeded", 2),
    ],
)
def test_what_is_wrong_for_all_prompts_ends_the_asking(
    reply: Any, models: tuple[str, ...], changes: dict[str, Any], words: str, requests: int
) -> None:
    with (
        serving(lambda prompt, times: reply, models=models) as stub,
        pytest.raises(OnepassError, match=words),
    ):
        ask(endpoint(stub, concurrency=1, **changes), PROMPTS, max_new_tokens=5)
    assert len(stub.asked) == requests


def test_what_a_server_says_cannot_play_with_the_terminal() -> None:
    with serving(lambda prompt, times: (400, {"error": {"message": "\x1b[2J\nno\r"}})) as stub:
        (response,) = ask(endpoint(stub), ["x"], max_new_tokens=5)
    assert response.error == "the server answers 400: [2J no"


def test_halves_of_surrogate_pairs_are_neither_sent_nor_kept() -> None:
    with serving(lambda prompt, times: f"\udfff{prompt}") as stub:
        (response,) = ask(endpoint(stub), ["x\ud800"], max_new_tokens=5)
    assert response.text == "?x?"


def test_an_address_without_its_version_is_refused() -> None:
    with serving(echo) as stub:
        where = endpoint(stub, url=stub.url.removesuffix("/v1"))
        with pytest.raises(OnepassError, match="usually ends in /v1"):
            ask(where, PROMPTS, max_new_tokens=5)


# ------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    "limit",
    [
        {"max_total_tokens": 50},
        {"max_cost": 50e-6, "input_price": 1.0, "output_price": 1.0},
        {"max_cost": 8e-6, "input_price": 0.0, "output_price": 1.0},
    ],
)
def test_a_limit_stops_the_asking_and_keeps_what_came(limit: dict[str, Any]) -> None:
    kept: dict[int, Response] = {}
    spent = Spent()
    with serving(echo) as stub:  # each answer is of 10 + 2 tokens: the fifth reaches the limit
        where = endpoint(stub, concurrency=1, **limit)
        with pytest.raises(OnepassError, match=r"reached max_.* of 12 prompts answered"):
            ask(where, PROMPTS, max_new_tokens=5, on_response=kept.__setitem__, spent=spent)
        count = 5 if "max_total_tokens" in limit or limit["input_price"] else 4
        assert len(kept) == len(stub.asked) == count
        assert (spent.prompt_tokens, spent.completion_tokens) == (10 * count, 2 * count)
        with pytest.raises(OnepassError, match="0 of 12"):  # what was spent before counts
            ask(where, PROMPTS, max_new_tokens=5, spent=spent)
        assert len(stub.asked) == count


def test_tokens_that_a_server_does_not_count_are_estimated() -> None:
    body = {"choices": [{"message": {"content": "Yes"}}], "usage": {"prompt_tokens": "many"}}
    with serving(lambda prompt, times: (200, body)) as stub:
        (response,) = ask(endpoint(stub), ["x" * 300], max_new_tokens=5)
    assert response.prompt_tokens == 100
    assert response.completion_tokens > 0


def test_failed_attempts_are_paid_for() -> None:
    with serving(lambda prompt, times: (200, completion(""))) as stub:
        (response,) = ask(endpoint(stub, retries=2), ["x"], max_new_tokens=5)
    assert (response.prompt_tokens, response.completion_tokens) == (30, 6)


# ------------------------------------------------------------------ interruption


def test_ctrl_c_stops_at_once() -> None:
    def reply(prompt: str, times: int) -> Any:
        if prompt == "prompt 0":
            return echo(prompt, times)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        return 3.0

    kept: dict[int, Response] = {}
    with serving(reply) as stub:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ask(
                endpoint(stub, concurrency=1, timeout=30),
                PROMPTS,
                max_new_tokens=5,
                on_response=kept.__setitem__,
            )
        assert time.monotonic() - began < 2
    assert list(kept) == [0]


def test_an_error_of_the_caller_stops_the_asking() -> None:
    def full(place: int, response: Response) -> None:
        raise OnepassError("the disk is full")

    with serving(echo) as stub, pytest.raises(OnepassError, match="the disk is full"):
        ask(endpoint(stub, concurrency=1), PROMPTS, max_new_tokens=5, on_response=full)
    assert len(stub.asked) == 1


# ------------------------------------------------------------------ options


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"url": "127.0.0.1:8000"}, "url is '127.0.0.1:8000'"),
        ({"url": "file:///etc/passwd"}, "http://127.0.0.1:8000/v1"),
        ({"url": "http://"}, "url is 'http://'"),
        ({"url": "http://[::1/v1"}, "url is"),
        ({"url": "http://h:99999/v1"}, "url is"),
        ({"url": "http://me:secret@h/v1"}, "user or a password"),
        ({"url": "http://h/v1/chat/completions"}, "up to the version"),
        ({"url": "http://h/v1?key=1"}, "up to the version"),
        ({"model": " "}, "model is empty"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"retries": -1}, "retries is -1"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"max_cost": 1.0}, "max_cost needs input_price and output_price"),
        ({"max_cost": -1.0, "input_price": 1.0, "output_price": 1.0}, "max_cost is -1"),
        ({"input_price": -1.0}, "input_price is -1"),
        ({"max_total_tokens": 0}, "max_total_tokens is 0"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(OnepassError, match=re.escape(words)) as error:
        Endpoint(**{"url": "http://h/v1", "model": "m", **changes})
    assert "secret" not in str(error.value)


def test_nothing_to_ask_asks_nobody() -> None:
    assert ask(Endpoint("http://127.0.0.1:9/v1", "m"), [], max_new_tokens=5) == []
    with pytest.raises(OnepassError, match="max_new_tokens is 0"):
        ask(Endpoint("http://127.0.0.1:9/v1", "m"), ["x"], max_new_tokens=0)
