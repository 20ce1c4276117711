"""The ways to do a compositional task on a device: what is run, with which adapters."""

from collections.abc import Callable

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.export.manifest import CompositionEntry, Manifest, PassEntry
from onepass.tasks.task import Task

Plan = Callable[[CompositionEntry], list[PassEntry]]


def _pass(task: Task, *adapters: str) -> PassEntry:
    return PassEntry(task=task, scales=dict.fromkeys(adapters, 1.0))


def _main(entry: CompositionEntry) -> list[PassEntry]:
    return [_pass(entry.task, entry.parts[entry.task.parts[0].name])]


def _multi_step(entry: CompositionEntry) -> list[PassEntry]:
    # Not in the order of `parts`, which a manifest's JSON sorts by name.
    return [_pass(part, entry.parts[part.name]) for part in entry.task.parts]


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
        parts = " and ".join(part.name for part in entry.task.parts)
        raise OnepassError(
            f"mode {mode} needs an adapter for each of {parts}; the set has none for composition "
            f"{entry.name!r}"
        )
    return MODES[mode](entry)
