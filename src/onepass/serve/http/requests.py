"""What clients may send: OpenAI's requests for chat completions and completions.

Fields that would change the answer and are not supported are refused; fields that are not OpenAI's
are ignored. `temperature`, `top_p` and `seed` are checked and change nothing: answers are greedy.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from onepass.core.errors import OnepassError
from onepass.serve.http.backend import Job, Messages, Model

Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
T = TypeVar("T", bound="_Request")
_SHOWN = 60  # characters of a wrong value that an error repeats


class Refused(OnepassError):
    """A request that is wrong in its field `param`; answered with an HTTP `status`."""

    def __init__(
        self, message: str, param: str | None = None, status: int = 400, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _StreamOptions(_Strict):
    include_usage: bool | None = None


class _Part(_Strict):
    type: Literal["text"]
    text: str


class Message(_Strict):
    """One message; `name` is who says it, in a conversation of several people."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[_Part], Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class _Request(_Strict):
    model: Annotated[str, Field(min_length=1)]
    max_tokens: Count | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    seed: int | None = None
    user: str | None = None
    n: Count | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stop: Any = None
    logit_bias: Any = None
    logprobs: Any = None

    @property
    def longest(self) -> int | None:
        return self.max_tokens


class Chat(_Request):
    """A request for a chat completion."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    top_logprobs: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None

    @property
    def longest(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class Completion(_Request):
    """A request for a completion."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    best_of: Count | None = None
    echo: bool | None = None
    suffix: str | None = None


_ONE = (1,)
_NOTHING: tuple[Any, ...] = ("", [], {}, 0, False)
_UNSUPPORTED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "n": (_ONE, "one answer is given, the likeliest"),
    "best_of": (_ONE, "one answer is given, the likeliest"),
    "presence_penalty": (_NOTHING, "answers are greedy, without penalties"),
    "frequency_penalty": (_NOTHING, "answers are greedy, without penalties"),
    "logit_bias": (_NOTHING, "answers are greedy, without a bias"),
    "logprobs": (_NOTHING, "probabilities are not returned"),
    "top_logprobs": (_NOTHING, "probabilities are not returned"),
    "stop": (_NOTHING, "an answer ends where its model ends it, or at max_tokens"),
    "tools": (_NOTHING, "these models call no tools"),
    "tool_choice": (("none", "auto"), "these models call no tools"),
    "functions": (_NOTHING, "these models call no functions"),
    "function_call": (("none", "auto"), "these models call no functions"),
    "response_format": (({"type": "text"},), "answers are plain text"),
    "modalities": ((["text"],), "answers are text"),
    "audio": (_NOTHING, "answers are text"),
    "prediction": (_NOTHING, "predictions are not used"),
    "echo": (_NOTHING, "the prompt is not repeated"),
    "suffix": (_NOTHING, "nothing is inserted before a suffix"),
}
"""By field the values that ask for nothing, and why others are refused."""


def parse(kind: type[T], body: bytes, most: int) -> T:
    """The request in a body of JSON; `most` is the highest `max_tokens` that is allowed.

    Raises:
        Refused: with the field that is wrong, or not supported.
    """
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(kind, error) from error
    for field, (neutral, why) in _UNSUPPORTED.items():
        value = getattr(request, field, None)
        if value is not None and not any(value == one for one in neutral):
            raise Refused(f"{field} is not supported: {why}", field, code="unsupported_parameter")
    if request.longest is not None and request.longest > most:
        field = "max_tokens" if request.longest == request.max_tokens else "max_completion_tokens"
        raise Refused(f"{field} is {request.longest}; this server allows {most} at most", field)
    return request


def job_of(request: Chat | Completion, model: Model) -> Job:
    """What a model is to answer to a request.

    Raises:
        Refused: there is no text in it.
    """
    if isinstance(request, Completion):
        prompt = request.prompt if isinstance(request.prompt, str) else request.prompt[0]
        if not prompt.strip():
            raise Refused("prompt is empty; give a text", "prompt")
        return Job(model.name, prompt, request.longest)
    if model.chat:
        return Job(model.name, conversation(request.messages), request.longest)
    return Job(model.name, text_of(request.messages), request.longest)


def conversation(messages: Sequence[Message]) -> Messages:
    """The messages for the chat template, which knows no developer."""
    roles = {"developer": "system"}
    return tuple({"role": roles.get(m.role, m.role), "content": m.text} for m in messages)


def text_of(messages: Sequence[Message]) -> str:
    """The text that a task is done to: the last user message.

    If that message has a `name`, the messages are a conversation of several people, and all of it
    is the text: a line "NAME: what is said" for each message of a user or an assistant. System
    messages are left out, since a task has its own instruction.
    """
    said = [each for each in messages if each.role in ("user", "assistant")]
    users = [each for each in said if each.role == "user"]
    if not users or not users[-1].text.strip():
        raise Refused("the last user message is the text, and it is empty or missing", "messages")
    if users[-1].name is None:
        return users[-1].text
    return "\n".join(f"{each.name or each.role.capitalize()}: {each.text}" for each in said)


def _refusal(kind: type[_Request], error: ValidationError) -> Refused:
    errors = error.errors(include_url=False, include_context=False)
    # Of a union there is an error for each branch, which its place names too: the branch that the
    # value comes nearest to has the deepest one.
    places = [_place(kind, each["loc"]) for each in errors]
    nearest = max(
        (n for n, place in enumerate(places) if place[: len(places[0])] == places[0]),
        key=lambda n: len(places[n]),
    )
    found = errors[nearest]
    if found["type"] == "json_invalid":
        return Refused("the body is no JSON; " + found["msg"].removeprefix("Invalid JSON: "))
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in places[nearest]]
    param = "".join(steps).removeprefix(".")
    if found["type"] == "missing":
        return Refused(f"{param} is missing", param, code="missing_required_parameter")
    said = found["msg"].removeprefix("Input ").removeprefix("Value ")
    value = f"{found['input']!r:.{_SHOWN}}"
    return Refused(f"{param or 'the body'}: {said}, found {value}", param or None)


def _place(kind: type[_Request], location: tuple[int | str, ...]) -> list[int | str]:
    """A location without the branches of unions."""
    fields = {*kind.model_fields, *Message.model_fields, *_Part.model_fields, "include_usage"}
    return [step for step in location if isinstance(step, int) or step in fields]
