"""What a server asks of whatever runs its models: `on_llama.py` or `on_torch.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from onepass.core.errors import OnepassError
from onepass.serve.stop import Stop
from onepass.serve.stream import OnText

BASE = "base"
"""The name of the base as a model."""

Messages = tuple[Mapping[str, str], ...]
"""Each with "role" (system, user or assistant) and "content"."""


@dataclass(frozen=True)
class Model:
    """What can be asked for by `name`. about: what it does; passes: over the base, per answer.

    chat: it takes messages as they are, through the chat template; others do their task to a text.
    """

    name: str
    about: str
    passes: int
    chat: bool = False


@dataclass(frozen=True)
class Job:
    """What to answer: a text, for a chat model the messages; to one, a text is continued as it is.

    max_tokens: of each pass; by default its task's own, for a chat model what the context allows.
    """

    model: str
    content: str | Messages
    max_tokens: int | None = None


@dataclass(frozen=True)
class Reply:
    """The whole answer, and the tokens of all passes: read (of which cached) and written.

    cut: there was no room for more. notice: what was left out of the text to make it fit.
    """

    text: str
    prompt_tokens: int
    cached_tokens: int
    tokens: int
    cut: bool
    notice: str = ""


class Backend(Protocol):
    """Runs models. at_once: how many answers it works on at a time, each in a thread."""

    @property
    def models(self) -> Mapping[str, Model]:
        """What can be asked for, by name."""

    @property
    def at_once(self) -> int: ...

    @property
    def failed(self) -> bool:
        """Whether it cannot answer any more."""

    def answer(self, job: Job, on_text: OnText, stop: Stop) -> Reply:
        """The answer to a job; `on_text` gets its text in pieces, whole characters at a time.

        Raises:
            OnepassError: the job cannot be done: its text is empty, or too long.
            Stopped: `stop` was set.
        """

    def close(self) -> None:
        """End everything; may be called again."""


def room(context: int, prompt: int, wanted: int | None, most: int) -> int:
    """How many tokens a chat model may write after a prompt of so many; `most` if none are wanted.

    Raises:
        OnepassError: the context does not hold the prompt, or not with what is wanted.
    """
    left = context - prompt
    if left < (wanted or 1):
        asked = f" and max_tokens is {wanted}" if wanted else ""
        raise OnepassError(
            f"the prompt has {prompt} tokens{asked}, but the context is {context}; shorten it"
        )
    return wanted or min(left, most)
