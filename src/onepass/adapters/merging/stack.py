"""The input and the output of a merge, and the register of merges.

A merge is a function from the `Stack` of each module to its merged change; its keyword parameters
are its options. To add one, write a file here with a decorated function and import it in the
package.
"""

import functools
import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from onepass.adapters.lora import Lora
from onepass.core.errors import OnepassError
from onepass.core.registry import Registry, unknown

Random = np.random.Generator
"""numpy's, as it draws small integers several times faster than torch draws anything."""


@dataclass(frozen=True)
class Stack:
    """One module's change in each adapter, with weights; rank 0 where an adapter lacks the module.

    `names` are the adapters'; `seed` is that of the whole merge.
    """

    module: str
    names: tuple[str, ...]
    loras: tuple[Lora, ...]
    weights: tuple[float, ...]
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.loras[0].shape

    def generator(self, adapter: int) -> Random:
        """Random numbers for one adapter's part in this module.

        They depend on the seed and the two names alone: not on the order of adapters and modules,
        nor on what else is merged (adapters of one name differ by their order).
        """
        name = self.names[adapter]
        key = f"{self.seed}/{self.module}/{name}/{self.names[:adapter].count(name)}"
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
        return np.random.Generator(np.random.SFC64(number))


Change = Lora | Tensor
"""What a merge makes of a module: exact and low-rank, or dense (out, in), to be truncated."""
Merge = Callable[..., Iterable[Change]]
"""From all stacks, and options by keyword, to a result for each stack, in order."""
MergeOne = TypeVar("MergeOne", bound=Callable[..., Change])
"""A function from one stack, and options by keyword, to its result."""


@dataclass(frozen=True)
class MergeMethod:
    """A way to merge. `shares`: weights default to 1/N each, otherwise to 1."""

    name: str
    title: str
    merge: Merge
    options: Mapping[str, Any]
    """Its options with their defaults."""
    shares: bool

    def check_options(self, options: Mapping[str, Any]) -> None:
        for option in options:
            if option not in self.options:
                known = list(self.options)
                if not known:
                    raise OnepassError(f"merge {self.name} has no options, found {option!r}")
                raise unknown(f"option of merge {self.name}", option, known)


MERGES: Registry[MergeMethod] = Registry("merge")


def merge_method(name: str, title: str, *, shares: bool = True) -> Callable[[MergeOne], MergeOne]:
    """Register a function of one stack as the merge `name`."""

    def register(merge_one: MergeOne) -> MergeOne:
        @functools.wraps(merge_one)
        def merge(stacks: Sequence[Stack], **options: Any) -> Iterator[Change]:
            for stack in stacks:
                yield merge_one(stack, **options)

        add_merge(name, title, merge, options_of(merge_one), shares=shares)
        return merge_one

    return register


def add_merge(
    name: str, title: str, merge: Merge, options: Mapping[str, Any], *, shares: bool = True
) -> None:
    """Register a merge that has to see all stacks at once."""
    MERGES.add(name, MergeMethod(name, title, merge, options, shares))


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Refuse an option that is no number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        wanted = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        raise OnepassError(f"{name} is {value!r}; it must be a number {wanted}")


def check_share(name: str, value: Any) -> None:
    """Refuse an option that should be a share of entries: none at all would leave nothing."""
    check_number(name, value, 1e-6, 1)


def check_count(name: str, value: Any) -> None:
    """Refuse an option that is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise OnepassError(f"{name} is {value!r}; it must be a whole number of at least 1")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse an option that is none of the `choices`, suggesting near ones."""
    if value not in choices:
        raise unknown(name, str(value), list(choices))
