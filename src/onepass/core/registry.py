"""A register of named things, whose error for an unknown name suggests near ones."""

import difflib
from collections.abc import Iterator
from typing import Generic, TypeVar

from onepass.core.errors import OnepassError

T = TypeVar("T")
FEW = 8  # names that are all told, whether or not one of them is near


def unknown(kind: str, name: str, known: list[str]) -> OnepassError:
    """The error for a `name` that is not among the `known` names of this `kind`."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hints = [f"did you mean {' or '.join(repr(n) for n in near)}?"] if near else []
    if not near or len(near) < len(known) <= FEW:
        hints.append(f"known: {', '.join(known) or 'none'}")
    return OnepassError(f"unknown {kind} {name!r}: {' '.join(hints)}")


class Registry(Generic[T]):
    """Names to things of one kind, in the order of registration."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, T] = {}

    def add(self, name: str, thing: T) -> T:
        if name in self._things:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        self._things[name] = thing
        return thing

    def get(self, name: str) -> T:
        """The thing called `name`; an `OnepassError` with near names if there is none."""
        if name not in self._things:
            raise unknown(self.kind, name, self.names())
        return self._things[name]

    def names(self) -> list[str]:
        return list(self._things)

    def __iter__(self) -> Iterator[str]:
        return iter(self._things)

    def __len__(self) -> int:
        return len(self._things)
