"""Reading what a server sends: the text of a chat completion, its tokens, its complaints."""

import json
import math
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from onepass.core.text import whole

_CHARACTERS_PER_TOKEN = 3  # for servers that do not count; a little too many tokens is meant


def told_wait(header: str | None) -> float | None:
    """The seconds of a Retry-After header, a number or a date; None where it says nothing."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else max(0.0, seconds)


def message(error: Any) -> str:
    """The server's own words in an error."""
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return str(error.response.text or error.message)


def _parsed(body: bytes) -> Any:
    """The JSON value of a body; a `ValueError` where it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError(f"not JSON but {body[:60].decode('utf-8', 'replace')!r}") from None


def content(body: bytes) -> str:
    """The text in a chat completion; a `ValueError` that says what stands there instead."""
    found = _parsed(body)
    for step in ("choices", 0, "message", "content"):
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError):
            start = body[:60].decode("utf-8", "replace")
            raise ValueError(f"no choices[0].message.content in {start!r}") from None
    if not isinstance(found, str) or not found.strip():
        raise ValueError(f"choices[0].message.content is {found!r}, not a text")
    return whole(found.strip())


def was_cut(body: bytes) -> bool:
    """Whether the server says that the answer was cut off at the most tokens it may have."""
    with suppress(ValueError, LookupError, TypeError):
        return bool(_parsed(body)["choices"][0]["finish_reason"] == "length")
    return False


def usage(body: bytes, prompt: str) -> tuple[int, int]:
    """Tokens read and written, as the server counts them, or about that many."""
    counted = []
    for name, length in (("prompt_tokens", len(prompt)), ("completion_tokens", len(body))):
        value: Any = None
        with suppress(ValueError, KeyError, TypeError):
            value = _parsed(body)["usage"][name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            value = math.ceil(length / _CHARACTERS_PER_TOKEN)
        counted.append(value)
    return counted[0], counted[1]
