"""What clients may send: whatever it is, the answer is OpenAI's, and never a 500."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onepass.serve.http.backend import Model
from onepass.serve.http.requests import Chat, Completion, Message, Refused, job_of, parse, text_of
from serve_kit import Endless, Running, running

MOST = 100
TASK, BASE = Model("task", "do it", 1), Model("base", "chat", 1, chat=True)
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(Endless(at_once=2)) as server:
        yield server


def chat(**body: Any) -> Chat:
    return parse(Chat, json.dumps({"model": "task", "messages": HELLO, **body}).encode(), MOST)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model", 3, "should be a valid string, found 3"), ("model", "", "at least 1 character"),
        ("max_tokens", -1, "found -1"), ("max_tokens", 0, "found 0"),
        ("max_tokens", "5", "should be a valid integer"), ("max_tokens", True, "found True"),
        ("max_tokens", 2.5, "found 2.5"), ("max_tokens", MOST + 1, "allows 100 at most"),
        ("max_completion_tokens", -3, "found -3"), ("temperature", "hot", "found 'hot'"),
        ("temperature", 3, "found 3"), ("top_p", -0.1, "found -0.1"), ("seed", "x", "found 'x'"),
        ("stream", "yes", "should be a valid boolean"), ("stream_options", [], "found []"),
        ("messages", [], "at least 1"), ("messages", "Hello", "should be a valid array"),
        ("n", 0, "found 0"), ("n", 2, "one answer is given"), ("user", 1, "found 1"),
        ("tools", [{"type": "function"}], "call no tools"), ("tool_choice", "required", "no tools"),
        ("logprobs", True, "not returned"), ("logprobs", 5, "not returned"),
        ("top_logprobs", 2, "not returned"), ("stop", ["\n"], "an answer ends where"),
        ("response_format", {"type": "json_object"}, "plain text"),
        ("presence_penalty", 0.5, "greedy"), ("frequency_penalty", -3, "found -3"),
        ("logit_bias", {"5": 1}, "greedy"), ("functions", [{}], "no functions"),
    ],
)  # fmt: skip
def test_a_wrong_or_unsupported_field_is_named(field: str, value: Any, said: str) -> None:
    with pytest.raises(Refused) as refused:
        chat(**{field: value})
    assert refused.value.param == field
    assert refused.value.status == 400
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "messages[1].role"),
        ({"role": "user"}, "messages[1].content"),
        ({"role": "user", "content": None}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0].text"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "messages[1].content[0].type",
        ),
        ("Hello", "messages[1]"),
    ],
)
def test_a_wrong_message_is_named_by_its_place(message: Any, param: str) -> None:
    with pytest.raises(Refused) as refused:
        chat(messages=[HELLO[0], message])
    assert refused.value.param == param


def test_what_asks_for_nothing_is_let_past() -> None:
    asked = chat(
        n=1, stop=None, tools=[], tool_choice="none", logprobs=False, response_format=None,
        presence_penalty=0, frequency_penalty=0.0, logit_bias={}, temperature=0.7, top_p=1, seed=3,
        not_openais={"any": "thing"}, stream=False,
    )  # fmt: skip
    assert job_of(asked, TASK).content == "Hello"
    assert chat(response_format={"type": "text"}, max_tokens=MOST).longest == MOST


def messages(*given: tuple[str, str] | tuple[str, str, str]) -> list[Message]:
    return [
        Message(role=each[0], content=each[1], name=each[2] if len(each) > 2 else None)  # type: ignore[arg-type]
        for each in given
    ]


def test_the_text_is_the_last_user_message() -> None:
    said = messages(("system", "Be nice."), ("user", "first"), ("assistant", "A."), ("user", "2nd"))
    assert text_of(said) == "2nd"
    parts = chat(
        messages=[{"role": "user", "content": [{"type": "text", "text": t} for t in "ab"]}]
    )
    assert text_of(parts.messages) == "a\nb"


def test_messages_of_people_with_names_are_one_conversation() -> None:
    said = messages(
        ("system", "Be nice."), ("user", "Tea at five?", "Ana"), ("assistant", "Yes!"),
        ("user", "See you.", "Ben"),
    )  # fmt: skip
    assert text_of(said) == "Ana: Tea at five?\nAssistant: Yes!\nBen: See you."


@pytest.mark.parametrize("given", [[("system", "x")], [("user", " \n")], [("assistant", "x")]])
def test_without_a_text_there_is_nothing_to_do(given: list[tuple[str, str]]) -> None:
    with pytest.raises(Refused, match="the last user message is the text"):
        text_of(messages(*given))
    with pytest.raises(Refused, match="prompt is empty"):
        job_of(parse(Completion, b'{"model": "task", "prompt": " "}', MOST), TASK)


def test_the_base_gets_the_messages_as_they_are() -> None:
    asked = chat(messages=[{"role": "developer", "content": "Be nice."}, *HELLO])
    assert job_of(asked, BASE).content == (
        {"role": "system", "content": "Be nice."}, {"role": "user", "content": "Hello"},
    )  # fmt: skip


# ---------------------------------------------------------------- anything at all
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["system", "user", "assistant", "tool", ""]) | ANYTHING,
            "content": st.text(max_size=30) | ANYTHING,
            "name": st.text(max_size=5) | ANYTHING,
        },
    ),
    max_size=3,
)
FIELDS = sorted({*Chat.model_fields, *Completion.model_fields})
VALUES = {
    "model": st.sampled_from(["echo", "base", "nobody", ""]) | ANYTHING,
    "messages": MESSAGES | ANYTHING,
    "prompt": st.text(max_size=20) | ANYTHING,
    "max_tokens": st.integers(-2, 2) | ANYTHING,
    "stream": st.booleans() | ANYTHING,
}
CHANGES = st.lists(
    st.sampled_from(FIELDS).flatmap(
        lambda field: st.tuples(st.just(field), VALUES.get(field, ANYTHING))
    ),
    max_size=3,
).map(dict)


def check(status: int, said: Any) -> None:
    assert status in (200, 400, 404, 413)
    if status != 200:
        error = said["error"]
        assert error["message"]
        assert "\n" not in error["message"]
        assert "Traceback" not in error["message"]


@settings(max_examples=120)
@given(CHANGES, st.sampled_from(["/v1/chat/completions", "/v1/completions"]))
def test_any_json_is_answered_or_refused(server: Running, changes: Any, path: str) -> None:
    body = {"model": "echo", "messages": HELLO, "prompt": "Hello", **changes}
    check(*server.ask("POST", path, json.dumps(body).encode()))


@settings(max_examples=100)
@given(st.binary(max_size=60), st.sampled_from(["/v1/chat/completions", "/v1/completions"]))
def test_any_bytes_are_refused(server: Running, body: bytes, path: str) -> None:
    check(*server.ask("POST", path, body))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000, b'{"model": ' * 10_000, b'{"model": "echo", "prompt": "\\ud800"}',
        b'{"model": "echo", "prompt": "x", "max_tokens": 1' + b"0" * 5000 + b"}",
        b'{"model": "echo", "prompt": "x", "temperature": NaN}', b'"\xff\xfe"', b"null", b"",
    ],
)  # fmt: skip
def test_json_made_to_break_parsers_is_refused(server: Running, body: bytes) -> None:
    status, said = server.ask("POST", "/v1/completions", body)
    check(status, said)
    assert status == 400
