"""One input text and what should come out of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """An `input` text with its acceptable `targets` for one task.

    `meta` is whatever else the corpus knows of it, as plain JSON values: the embedded benchmark
    keeps under "meaning" what the verifier needs.
    """

    id: str
    input: str
    targets: tuple[str, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError(f"example {self.id!r} has no target")

    @property
    def target(self) -> str:
        """The first target, the one a model is trained on."""
        return self.targets[0]
