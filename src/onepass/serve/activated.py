"""What an engine loads to run a set's activated adapters, and from where in a prompt each acts.

llama.cpp takes one activated adapter at a time, so that a pass of several is put together as one.
It looks for the last place of an adapter's invocation in a prompt, but begins `EARLY` tokens before
it. Hence each is loaded with an invocation that begins as many tokens later.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.export.manifest import CompositionEntry, Manifest, PassEntry
from onepass.serve.modes import MODES

EARLY = 1
"""How many tokens before the invocation that it finds llama.cpp's server lets an adapter act, in
all versions so far (`alora_invocation_start - 1` in its server-context.cpp)."""

UPGRADE = "pip install --upgrade onepass xllamacpp"

Ids = Sequence[int]


@dataclass(frozen=True)
class Activated:
    """An adapter to load: called `name`, the sum of adapters of the set at their scales.

    invocation: what llama.cpp is to look for. tails: the ends of the prompts it is run with, from
    where it acts.
    """

    name: str
    scales: dict[str, float]
    invocation: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...]

    def start(self, ids: Ids) -> int | None:
        """From where llama.cpp lets it act in a prompt; None for nowhere."""
        found = last_place(self.invocation, ids)
        return None if found is None else max(found - EARLY, 0)


def last_place(wanted: Ids, ids: Ids) -> int | None:
    """Where llama.cpp finds the `wanted` ids, from the end: after a near miss it looks no further
    back than it has come, and so may overlook a place that overlaps with the miss.
    """
    left = len(wanted) - 1
    for place in range(len(ids) - 1, -1, -1):
        if ids[place] != wanted[left]:
            left = len(wanted) - 1
        elif left == 0:
            return place
        else:
            left -= 1
    return None


def to_load(manifest: Manifest) -> list[Activated]:
    """All that a set's activated compositions need in any mode.

    An adapter is loaded once for all its prompts if one invocation serves them, or for each.
    """
    runs: dict[tuple[tuple[str, float], ...], tuple[str, list[tuple[int, ...]]]] = {}
    for name, pass_ in _passes(manifest):
        activation = manifest.activation(pass_.task)
        if activation is None or not pass_.activated:
            continue
        _, tails = runs.setdefault(tuple(_loaded_scales(pass_).items()), (name, []))
        tail = tuple(activation.tail)
        if tail not in tails:
            if len(tail) <= EARLY:
                raise OnepassError(
                    f"task {pass_.task.name!r} acts from the last token of its prompts on, which "
                    "llama.cpp cannot; let activate stand before the end"
                )
            tails.append(tail)
    return [
        each
        for scales, (name, tails) in runs.items()
        for each in _grouped(name, dict(scales), tails)
    ]


def chosen(loaded: Sequence[Activated], manifest: Manifest, pass_: PassEntry) -> PassEntry:
    """The pass with what is loaded for it in the place of the set's adapters."""
    activation = manifest.activation(pass_.task)
    if activation is None or not pass_.activated:
        return pass_
    alone = _alone(pass_)
    scales = _loaded_scales(pass_)
    for each in loaded:
        if each.scales == scales and tuple(activation.tail) in each.tails:
            scale = pass_.scales[alone] if alone else 1.0
            return pass_.model_copy(update={"scales": {each.name: scale}})
    raise unknown("activated pass for", pass_.task.name, [each.name for each in loaded])


def reader(manifest: Manifest, composition: str | None = None) -> CompositionEntry:
    """The composition in whose prompt a text is read ahead: the one named, or the first activated.

    Raises:
        OnepassError: there is no such composition, or it is not activated.
    """
    entries = manifest.compositions if composition is None else [manifest.composition(composition)]
    for entry in entries:
        if entry.activated:
            return entry
    raise OnepassError(
        f"{f'composition {composition!r}' if composition else 'no composition of this set'} is "
        f"{'not ' if composition else ''}activated, so that its text can be read only once it is "
        "known what is asked of it; train with --activated"
    )


def check_invocations(
    reports: Mapping[str, Mapping[str, Any]], activated: Mapping[str, Activated]
) -> None:
    """Refuse an engine whose `reports` on its adapters differ from what they state."""
    for name, report in reports.items():
        found = tuple(report.get("alora_invocation_tokens", ()))
        wanted = activated[name].invocation if name in activated else ()
        if found != wanted:
            raise OnepassError(
                f"this llama.cpp finds the invocation {[*found]} in adapter {name!r}, which has "
                f"{[*wanted]}, and would let it act elsewhere; {UPGRADE}"
            )


def check_start(adapter: Activated, prompt: Ids, cached: int) -> None:
    """Refuse an engine that lets an adapter act from elsewhere than is assumed here.

    cached: how many tokens of a prompt it reuses at once after it has read the same: those before.
    """
    if cached != adapter.start(prompt):
        raise OnepassError(
            f"this llama.cpp lets adapter {adapter.name!r} act from token {cached} of a prompt on, "
            f"and should from token {adapter.start(prompt)} on; {UPGRADE}"
        )


def _passes(manifest: Manifest) -> Iterator[tuple[str, PassEntry]]:
    """What is run in any mode, with the name of what is loaded for it."""
    for entry in manifest.compositions:
        modes = ["composed", *(["main", "multi-step"] if entry.parts else [])]
        for mode in modes:
            for number, pass_ in enumerate(MODES[mode](entry)):
                yield _alone(pass_) or _whole(entry, number), pass_


def _whole(entry: CompositionEntry, number: int) -> str:
    return f"fused/{entry.name}" + (f"/{number + 1}" if len(entry.passes) > 1 else "")


def _alone(pass_: PassEntry) -> str | None:
    """The only adapter of a pass, if it can be run as it is."""
    used = {name: scale for name, scale in pass_.scales.items() if scale}
    return next(iter(used)) if len(used) == 1 and min(used.values()) > 0 else None


def _loaded_scales(pass_: PassEntry) -> dict[str, float]:
    alone = _alone(pass_)
    return {alone: 1.0} if alone else {name: s for name, s in pass_.scales.items() if s}


def _grouped(
    name: str, scales: dict[str, float], tails: list[tuple[int, ...]]
) -> Iterator[Activated]:
    common = takewhile(lambda ids: len(set(ids)) == 1, zip(*tails, strict=False))
    invocation = tuple(ids[0] for ids in common)[EARLY:]
    if invocation and all(last_place(invocation, tail) == EARLY for tail in tails):
        yield Activated(name, scales, invocation, tuple(tails))
        return
    for number, tail in enumerate(tails, start=1):
        title = name if number == 1 else f"{name}/{number}"
        yield Activated(title, scales, tail[EARLY:], (tail,))
