"""The pieces of an answer as llama.cpp generates them."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from onepass.core.errors import OnepassError

OnText = Callable[[str], None]

UNKNOWN = -1
"""In place of a token id that llama.cpp's stream leaves out."""


def gather(events: Iterable[Any], stop: Collection[int], on_text: OnText) -> Any:
    """The reply that a stream of events amounts to, cut at the first of the `stop` tokens.

    llama.cpp sends no event for a token that leaves a character unfinished; the event that finishes
    it has the text, but not the ids: these are `UNKNOWN`. If the answer ends inside a character,
    there are fewer "tokens" than "tokens_predicted", and the "content" lacks its end too.
    """
    ids: list[int] = []
    text = ""
    event: dict[str, Any] = {}
    for event in events:
        if event["stop"] or (ids and ids[-1] in stop):
            continue  # on to the last event, which has the counts
        missing = event["tokens_predicted"] - len(ids) - len(event["tokens"])
        ids += [UNKNOWN] * missing + event["tokens"]
        if event["content"] and ids[-1] not in stop:
            text += event["content"]
            on_text(event["content"])
    return {**event, "tokens": ids, "content": text}


def stripped(on_text: OnText) -> OnText:
    """A function for pieces of a text that passes `str.strip` of the text on to `on_text`."""
    said, given = "", 0

    def strip(piece: str) -> None:
        nonlocal said, given
        said += piece
        text = said.strip()  # holds back trailing white space, which may prove to be inside
        if len(text) > given:
            on_text(text[given:])
            given = len(text)

    return strip


def finite(reply: Any, scales: Mapping[str, float]) -> Any:
    """A reply, or an event of a stream; an `OnepassError` naming `scales` if a probability is NaN.

    llama.cpp itself would go on with some token.
    """
    rows = reply.get("completion_probabilities") or ()
    if any(row.get("prob", row.get("logprob")) is None for row in rows):
        at = ", ".join(f"{name} at {scale:g}" for name, scale in scales.items())
        raise OnepassError(
            f"the model's numbers overflow with adapters {at or '(none)'}; "
            "a scale is too large, or a file is damaged"
        )
    return reply
