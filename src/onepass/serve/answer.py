"""What an engine gives back."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What came of a text: the last pass's `text`, and what all passes took.

    tokens: generated, the end of turn included. prompt_tokens: read; cached_tokens of them were
    known from before. Of the `seconds`, llama.cpp spent `read_seconds` on the rest of these, and
    `write_seconds` on generating. first_seconds: until the last pass's first token was known.
    notice: what was left out of the text to make it fit; "" where nothing was. cut: the last pass
    had written as many tokens as it may before it came to an end.
    """

    text: str
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    seconds: float
    read_seconds: float
    write_seconds: float
    first_seconds: float
    notice: str = ""
    cut: bool = False

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Completion:
    """The greedy continuation of a prompt; `ids` end with a stop token if it came.

    cut: none came, and there are as many tokens as were allowed.
    """

    ids: list[int]
    text: str
    prompt_tokens: int
    cached_tokens: int
    read_seconds: float
    write_seconds: float
    cut: bool = False


@dataclass(frozen=True)
class Reading:
    """What it took to read a text ahead: its prompt's tokens before an invocation, and the time.

    cached_tokens of them were known from before. notice: as of an `Answer`.
    """

    prompt_tokens: int
    cached_tokens: int
    seconds: float
    notice: str = ""
