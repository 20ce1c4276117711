"""What a labeller is, and the register of them.

A labeller does one single task ("translate:es", "tone:witty", "summarize") to texts. To add one,
write a file in this folder with a decorated class that takes `Options`, and import it in
`onepass.prepare.labellers`.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from onepass.core.registry import Registry
from onepass.model.identity import model_identity
from onepass.serve.endpoint import Endpoint
from onepass.tasks.task import Task

TOO_LONG, FAILED = "too long", "failed"


@dataclass(frozen=True)
class Label:
    """What a labeller made of one text: the `text`, or the `problem` because of which it has none.

    problem: "" for none; `TOO_LONG` (source or label beyond what the model takes or may write);
    `FAILED`, with `detail`, which is not kept but tried again next time. date: of the day, UTC.
    """

    text: str = ""
    problem: str = ""
    detail: str = ""
    date: str = ""


@dataclass(frozen=True)
class Identity:
    """All that a labeller's labels depend on beside the text; the rows' provenance is made of it.

    prompt: the message with {text} in it, where there is one. settings: JSON values.
    """

    labeller: str
    model: str
    prompt: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def key(self, text: str) -> str:
        """What the label of `text` is stored under."""
        parts = [self.labeller, self.model, self.prompt, dict(self.settings), text]
        return _digest(json.dumps(parts, sort_keys=True))

    @property
    def prompt_hash(self) -> str | None:
        return None if self.prompt is None else _digest(self.prompt)[:8]


Keep = Callable[[Mapping[str, Label]], None]
"""Given finished labels by their texts; it stores them before it returns, all or none."""


class Labeller(Protocol):
    """Labels texts, one single task at a time.

    Its constructor and `identity` raise `OnepassError` for what is missing or cannot be done, so
    that it shows before any work; neither loads a model.
    """

    def identity(self, part: Task) -> Identity:
        """What labels of the single task `part` depend on."""
        ...

    def label(self, part: Task, texts: Sequence[str], keep: Keep) -> None:
        """Do `part` to each of the `texts` (longest first, all different), and `keep` the labels.

        They are worked off in their order, in batches kept as a whole: after a kill what is left is
        then made in the very batches it would have been made in, and comes out the same to the bit.
        """
        ...


@dataclass(frozen=True)
class Options:
    """What the user said of models; each labeller reads its own.

    translators: of seq2seq, by language; "" for all. instruct: of instruct. endpoint: of endpoint.
    model, adapters: of multi-step; the adapters by single task.
    """

    translators: Mapping[str, str] = field(default_factory=dict)
    beams: int = 4
    instruct: str = ""
    endpoint: Endpoint | None = None
    model: str = "tiny"
    adapters: Mapping[str, Path] = field(default_factory=dict)
    max_new_tokens: int = 256
    batch_size: int = 32
    device: str = "auto"


weights_hash = functools.cache(model_identity)
"""`model_identity`, read once: the files of a model are gigabytes."""

LABELLERS: Registry[Callable[[Options], Labeller]] = Registry("labeller")

Made = TypeVar("Made", bound=Callable[[Options], Labeller])


def labeller(name: str) -> Callable[[Made], Made]:
    """Register the decorated class as the labeller `name`."""

    def register(made: Made) -> Made:
        LABELLERS.add(name, made)
        return made

    return register


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
