"""The ways to do a compositional task on a device: what is run, with which adapters."""

from collections.abc import Callable

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.export.manifest import CompositionEntry, Manifest, PassEntry
from onepass.tasks.task import parse_task

Plan = Callable[[CompositionEntry], list[PassEntry]]


def _pass(task: str, *adapters: str) -> PassEntry:
    return PassEntry(
        task=task,
        instruction=parse_task(task).instruction,
        scales=dict.fromkeys(adapters, 1.0),
    )


def _main(entry: CompositionEntry) -> list[PassEntry]:
    return [_pass(entry.task, entry.parts[parse_task(entry.task).parts[0]])]


def _multi_step(entry: CompositionEntry) -> list[PassEntry]:
    # Not in the order of `parts`, which a manifest's JSON sorts by name.
    return [_pass(part, entry.parts[part]) for part in parse_task(entry.task).parts]


MODES: dict[str, Plan] = {
    "zero-shot": lambda entry: [_pass(entry.task)],
    "main": _main,
    "multi-step": _multi_step,
    "composed": lambda entry: entry.passes,
}
"""The base alone; the first task's adapter alone; the adapters in turn; the composition."""


def plan(manifest: Manifest, composition: str, mode: str) -> list[PassEntry]:
    """The passes of a set's composition in a mode.

    Raises:
        OnepassError: there is no such composition or mode, or the set has no adapter for each
            single task.
    """
    entry = manifest.composition(composition)
    if mode not in MODES:
        raise unknown("mode", mode, list(MODES))
    if mode != "composed" and manifest.base.merged:
        raise OnepassError(
            f"mode {mode} needs the adapters apart; the set's base is the whole composition"
        )
    if mode in ("main", "multi-step") and not entry.parts:
        raise OnepassError(
            f"mode {mode} needs an adapter for each of {' and '.join(parse_task(entry.task).parts)}"
            f"; the set has none for composition {entry.name!r}"
        )
    return MODES[mode](entry)
