"""What the server answers: OpenAI's objects, and its errors."""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onepass.serve.http.backend import Model, Reply

DONE = "data: [DONE]\n\n"
_OWNER = "onepass"


def error_body(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    kinds = {
        401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error",
    }  # fmt: skip
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def model_body(model: Model, created: int) -> dict[str, Any]:
    return {
        "id": model.name, "object": "model", "created": created, "owned_by": _OWNER,
        "description": model.about, "passes": model.passes,
    }  # fmt: skip


def usage(reply: Reply) -> dict[str, Any]:
    """The tokens of all passes."""
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.tokens,
        "total_tokens": reply.prompt_tokens + reply.tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
    }


@dataclass(frozen=True)
class Form:
    """One answer in the form that was asked for: `chat`, or a plain completion."""

    model: str
    chat: bool
    with_usage: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        said: dict[str, Any] = {"text": reply.text}
        if self.chat:
            said = {"message": {"role": "assistant", "content": reply.text, "refusal": None}}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": _reason(reply)}
        return {**self._head(""), "choices": [choice], "usage": usage(reply), **_notice(reply)}

    def first(self) -> str:
        """The event that begins a chat's stream: who speaks."""
        return self._event({"role": "assistant", "content": ""}) if self.chat else ""

    def piece(self, text: str) -> str:
        return self._event({"content": text})

    def last(self, reply: Reply) -> str:
        """The events that end a stream."""
        said = self._event({}, _reason(reply), _notice(reply))
        if self.with_usage:
            said += _data({**self._head(".chunk"), "choices": [], "usage": usage(reply)})
        return said + DONE

    def _head(self, chunk: str) -> dict[str, Any]:
        if self.chat:
            kind, id = f"chat.completion{chunk}", f"chatcmpl-{self.id}"
        else:
            kind, id = "text_completion", f"cmpl-{self.id}"
        return {"id": id, "object": kind, "created": self.created, "model": self.model}

    def _event(
        self,
        delta: Mapping[str, str],
        reason: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        said: dict[str, Any] = {"text": delta.get("content", "")}
        if self.chat:
            said = {"delta": delta}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        unknown = {"usage": None} if self.with_usage else {}
        return _data({**self._head(".chunk"), "choices": [choice], **unknown, **(more or {})})


def _data(body: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"


def error_event(body: Mapping[str, Any]) -> str:
    """What ends a stream that cannot go on."""
    return _data(body)


def _reason(reply: Reply) -> str:
    return "length" if reply.cut else "stop"


def _notice(reply: Reply) -> dict[str, str]:
    return {"notice": reply.notice} if reply.notice else {}
