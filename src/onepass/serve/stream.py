"""The pieces of an answer as llama.cpp generates them. See `gather` for what it does not tell."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from onepass.core.errors import OnepassError

OnText = Callable[[str], None]

UNTOLD = -1
"""In the place of a token's id that llama.cpp did not tell."""


def gather(events: Iterable[Any], stop: Collection[int], on_text: OnText) -> Any:
    """The reply that a stream of events amounts to, cut at the first of the `stop` tokens.

    llama.cpp sends no event for a token that leaves a character unfinished. The text comes with the
    event that finishes it, the ids never do: they are `UNTOLD`. Where the answer ends like this,
    there are fewer "tokens" than "tokens_predicted", and the end of the "content" is missing too.
    """
    ids: list[int] = []
    text = ""
    event: dict[str, Any] = {}
    for event in events:
        if event["stop"] or (ids and ids[-1] in stop):
            continue  # on to the last event, which tells the counts
        untold = event["tokens_predicted"] - len(ids) - len(event["tokens"])
        ids += [UNTOLD] * untold + event["tokens"]
        if event["content"] and ids[-1] not in stop:
            text += event["content"]
            on_text(event["content"])
    return {**event, "tokens": ids, "content": text}


def stripped(on_text: OnText) -> OnText:
    """Takes pieces of a text and gives `on_text` what `str.strip` leaves of the text."""
    said, given = "", 0

    def take(piece: str) -> None:
        nonlocal said, given
        said += piece
        text = said.strip()  # what whitespace ends it now may yet turn out to be inside
        if len(text) > given:
            on_text(text[given:])
            given = len(text)

    return take


def finite(reply: Any, scales: Mapping[str, float]) -> Any:
    """A reply, or an event of a stream, unless what it tells of a token's likelihood is NaN.

    llama.cpp goes on with any token then. scales: what is to blame, by name of adapter.
    """
    rows = reply.get("completion_probabilities") or ()
    if any(row.get("prob", row.get("logprob")) is None for row in rows):
        at = ", ".join(f"{name} at {scale:g}" for name, scale in scales.items())
        raise OnepassError(
            f"the model's numbers overflow with adapters {at or '(none)'}; "
            "a scale is too large, or a file is damaged"
        )
    return reply
