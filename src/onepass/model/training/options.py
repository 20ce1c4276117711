"""How a training runs: the options that every trainer shares."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from onepass.core.errors import OnepassError

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class TrainOptions:
    """Options of `fit`; the defaults suit adapters on real models of 1-2 billion parameters."""

    learning_rate: float = 2e-4
    """The peak, reached after warm-up; a cosine takes it to 0."""
    epochs: float = 3.0
    max_steps: int | None = None
    """Optimiser steps; if given, it overrides `epochs`."""
    batch_size: int = 16
    accumulation: int = 1
    """Batches per optimiser step, averaged over their target tokens."""
    warmup_ratio: float = 0.05
    """The share of all steps in which the learning rate rises."""
    weight_decay: float = 0.0
    clip: float | None = 1.0
    """The greatest gradient norm; None: unlimited."""
    precision: Precision = "auto"
    """Precision of the products (autocast); "auto": bfloat16 where the hardware has it."""
    seed: int = 0
    eval_every: int | None = 200
    """Steps between validations, each of which also saves the state; None: only at the end."""
    patience: int | None = 3
    """Validations without a new best before stopping early; None: never stop."""
    max_tokens: int | None = None
    """Prompt and target together; None: the context of the base."""

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epochs"):
            self._check(name, lambda value: value > 0 and math.isfinite(value), "above 0")
        for name in ("max_steps", "batch_size", "accumulation", "eval_every", "patience"):
            self._check(name, lambda value: value >= 1, "at least 1")
        self._check("max_tokens", lambda value: value >= 2, "at least 2")
        self._check("clip", lambda value: value > 0, "above 0, or None for no limit")
        self._check("warmup_ratio", lambda value: 0 <= value < 1, "from 0 to below 1")
        self._check("weight_decay", lambda value: 0 <= value < math.inf, "at least 0")
        self._check("seed", lambda value: value >= 0, "at least 0")
        allowed = ("auto", "float32", "bfloat16")
        self._check("precision", lambda value: value in allowed, f"one of {', '.join(allowed)}")

    def _check(self, name: str, holds: Callable[[Any], bool], expected: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise OnepassError(f"training option {name} is {value!r}; it must be {expected}")
