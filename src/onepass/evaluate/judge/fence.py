"""A fence around text that is to be judged, which no such text can close.

Each text stands between two lines that bear the same mark, a hash of all the texts. Whoever writes
a text cannot know the mark, since the text is part of what is hashed; and a mark that does occur in
one of them, in whatever letters, is not taken.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import count

from onepass.core.text import whole

_MARK_LENGTH = 16
_INVISIBLE = re.compile(r"[\s\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]+")

# What chat formats use to end one speaker's turn and begin another's. A server that puts a message
# into its model's format may read these inside the message, too, as if they were its own.
_CONTROL = re.compile(
    r"<(?=[|｜])|(?<=[|｜])>|<(?=/?s>)|<(?=<SYS>>|</SYS>>)|<(?=(?:start|end)_of_turn>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\])|<(?=/?think>)",
    re.IGNORECASE,
)


def mark_for(texts: Sequence[str]) -> str:
    """A mark of 16 hex digits, always the same for the same texts, that none of them holds."""
    seen = [_INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold() for text in texts]
    for mark in _marks(texts):
        if not any(mark in text for text in seen):
            return mark
    raise AssertionError("unreachable: no text holds all marks")


def _marks(texts: Sequence[str]) -> Iterator[str]:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    for number in count():
        again = digest.copy()
        again.update(number.to_bytes(8, "big"))
        yield again.hexdigest()[:_MARK_LENGTH]


def fenced(text: str, mark: str) -> str:
    """The text between its two lines."""
    return f"BEGIN {mark}\n{defused(text)}\nEND {mark}"


def defused(text: str) -> str:
    """The text with a blank inside whatever might be a control token: `< |im_end| >`.

    Half a surrogate pair, which no file or server takes, becomes a question mark.
    """
    return _CONTROL.sub(lambda found: " >" if found[0] == ">" else f"{found[0]} ", whole(text))
