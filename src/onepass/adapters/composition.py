"""A composition: what is run and shipped for one task, as plain data.

A base and one or more passes; what a pass is and computes, `onepass.adapters.passes` says.

On disk it is a folder that holds all a composition needs but its base. What passes share is written
once, so a loaded composition shares it too:

    composition.json           the manifest: tasks, method, base, passes, card
    adapters/0/, adapters/1/   adapters in PEFT format
    calibration-0.safetensors  calibrations
    calibration-0.history.json  the losses of their training
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, model_validator

from onepass.adapters.activation import are_activated, check_activation
from onepass.adapters.adapter import CONFIG, Adapter, adapter_bytes, load_adapter, write_adapter
from onepass.adapters.calibration import (
    Calibration,
    calibration_bytes,
    history_path,
    load_calibration,
    write_calibration,
)
from onepass.adapters.history import History, write_history
from onepass.adapters.manifests import read_manifest
from onepass.adapters.passes import Pass, Weighted, check_pass, pass_bias, pass_delta, reach
from onepass.adapters.shape import BaseShape, check_same
from onepass.adapters.storage import FolderFiles, check_replaceable
from onepass.core.errors import OnepassError
from onepass.core.files import atomic_folder, inside, write_json
from onepass.tasks.book import TaskField, parse_task
from onepass.tasks.task import Task

MANIFEST = "composition.json"
COMPOSITION_FILES = FolderFiles(MANIFEST, ("adapters", "calibration-*"))
T = TypeVar("T")

__all__ = [
    "BaseShape",
    "Composition",
    "Cost",
    "Pass",
    "Weighted",
    "check_base",
    "cost",
    "load_composition",
    "pass_bias",
    "pass_delta",
    "reach",
    "save_composition",
    "suited",
]


@dataclass(frozen=True, eq=False, repr=False)
class Composition:
    """Passes over one base, each reading the output of the one before; made by `method`.

    card: how it came to be, as JSON data.
    Raises:
        OnepassError: there is no pass; an adapter or calibration does not fit the base; or a pass
            mixes activated and ordinary adapters, or has adapters that its task does not suit.
    """

    base: BaseShape
    task: Task
    passes: tuple[Pass, ...]
    method: str
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.passes:
            raise OnepassError(f"composition for {self.task} has no passes; give at least one")
        for pass_ in self.passes:
            adapters = [weighted.adapter for weighted in pass_.adapters]
            check_activation(pass_.task.name, pass_.task.activate, adapters)
            check_pass(pass_, self.base)

    def __repr__(self) -> str:
        taken = cost(self)
        passes = f"{taken.passes} pass{'es' if taken.passes > 1 else ''}"
        extra = f"{taken.extra_parameters:,} extra parameters"
        return f"Composition({self.task}, {self.method}, {passes}, {extra}, base {self.base.name})"

    @property
    def history(self) -> History | None:
        """The training that made this composition; None if nothing was trained for it alone."""
        trained: list[Calibration | Adapter] = []
        for pass_ in self.passes:
            trained += [pass_.calibration] if pass_.calibration else []
            trained += [weighted.adapter for weighted in pass_.adapters if weighted.stored]
        return next((each.history for each in trained if each.history), None)


def suited(task: Task, adapters: Iterable[Adapter]) -> Task:
    """The task as these adapters do it: activated, if they are. Raises as `are_activated`."""
    return task.activated() if are_activated(adapters) else task


@dataclass(frozen=True)
class Cost:
    """What a composition costs over the base and the task adapters that the device holds anyway.

    passes: runs of the base per input. extra_parameters: numbers stored for this composition
    alone. extra_bytes: the size of the weight files that hold them, headers included.
    """

    passes: int
    extra_parameters: int
    extra_bytes: int


def check_base(composition: Composition, shape: BaseShape) -> None:
    """Refuse to run a composition on another base than its own: by name, or by shape."""
    try:
        check_same(composition.base, shape)
    except OnepassError as error:
        raise OnepassError(f"composition for {composition.task.name!r}: {error}") from error


def cost(composition: Composition, dtype: torch.dtype | None = None) -> Cost:
    """The cost of a composition saved with `dtype` (None: each tensor's own).

    What several passes share is counted once.
    """
    calibrations = {
        id(p.calibration): p.calibration for p in composition.passes if p.calibration is not None
    }
    stored = {id(w.adapter): w.adapter for p in composition.passes for w in p.adapters if w.stored}
    return Cost(
        passes=len(composition.passes),
        extra_parameters=sum(c.parameter_count for c in calibrations.values())
        + sum(adapter.parameter_count for adapter in stored.values()),
        extra_bytes=sum(calibration_bytes(c, dtype) for c in calibrations.values())
        + sum(adapter_bytes(adapter, dtype) for adapter in stored.values()),
    )


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Weighted(_Strict):
    folder: str
    weight: FiniteFloat
    stored: bool


class _Pass(_Strict):
    task: TaskField
    adapters: list[_Weighted]
    calibration: str | None
    shots: list[tuple[str, str]]

    @model_validator(mode="before")
    @classmethod
    def _of_format_1(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("task"), str):
            task = parse_task(data["task"])
            asked = data.get("instructed", True)
            data = {**data, "task": task if asked else task.bare()}
            data.pop("instructed", None)
        return data


class _Base(_Strict):
    name: str
    modules: dict[str, tuple[int, int]]


class _Manifest(_Strict):
    format: Literal["onepass composition 1", "onepass composition 2"]
    task: TaskField
    method: str
    base: _Base
    passes: list[_Pass]
    card: dict[str, Any]


def save_composition(
    composition: Composition, folder: Path | str, dtype: torch.dtype | None = None
) -> None:
    """Write a folder whole or not at all; `dtype` of the weights, None keeps each tensor's own.

    Raises:
        OnepassError: the folder cannot be written, holds files that are no composition's, or a
            weight is NaN or Inf or does not fit `dtype`. What stood there before is untouched.
    """
    folder = Path(folder)
    check_replaceable(folder, COMPOSITION_FILES)
    adapters = _places(
        (w.adapter for pass_ in composition.passes for w in pass_.adapters), "adapters/{}"
    )
    calibrations = _places(
        (p.calibration for p in composition.passes if p.calibration is not None),
        "calibration-{}.safetensors",
    )
    with atomic_folder(folder) as temporary:
        for adapter, place in adapters.values():
            (temporary / place).mkdir(parents=True)
            write_adapter(adapter, temporary / place, dtype)
        for calibration, place in calibrations.values():
            write_calibration(calibration, temporary / place, dtype)
            write_history(calibration.history, history_path(temporary / place))
        manifest = _describe(composition, adapters, calibrations)
        write_json(temporary / MANIFEST, manifest.model_dump())


def _places(things: Iterable[T], pattern: str) -> dict[int, tuple[T, str]]:
    """Each distinct thing, by identity, with its place in the folder."""
    distinct = {id(thing): thing for thing in things}
    return {key: (distinct[key], pattern.format(i)) for i, key in enumerate(distinct)}


def _describe(
    composition: Composition,
    adapters: dict[int, tuple[Adapter, str]],
    calibrations: dict[int, tuple[Calibration, str]],
) -> _Manifest:
    return _Manifest(
        format="onepass composition 2",
        task=composition.task,
        method=composition.method,
        base=_Base(name=composition.base.name, modules=composition.base.modules),
        passes=[
            _Pass(
                task=pass_.task,
                adapters=[
                    _Weighted(folder=adapters[id(w.adapter)][1], weight=w.weight, stored=w.stored)
                    for w in pass_.adapters
                ],
                calibration=calibrations[id(pass_.calibration)][1] if pass_.calibration else None,
                shots=list(pass_.shots),
            )
            for pass_ in composition.passes
        ],
        card=composition.card,
    )


def load_composition(folder: Path | str) -> Composition:
    """Read what `save_composition` wrote: the same numbers, dtypes and sharing.

    Raises:
        OnepassError: a file is missing, damaged or outside the folder, or does not fit the base
            that the manifest describes.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        hint = "; it holds an adapter" if (folder / CONFIG).is_file() else ""
        raise OnepassError(f"{folder} is no composition: it has no {MANIFEST}{hint}")
    manifest = read_manifest(_Manifest, folder / MANIFEST)
    adapters = {
        place: load_adapter(inside(folder / MANIFEST, place))
        for place in dict.fromkeys(w.folder for pass_ in manifest.passes for w in pass_.adapters)
    }
    calibrations = {
        place: load_calibration(inside(folder / MANIFEST, place))
        for place in dict.fromkeys(p.calibration for p in manifest.passes if p.calibration)
    }
    passes = tuple(
        Pass(
            task=pass_.task,
            adapters=tuple(
                Weighted(adapters[w.folder], w.weight, w.stored) for w in pass_.adapters
            ),
            calibration=calibrations[pass_.calibration] if pass_.calibration else None,
            shots=tuple(pass_.shots),
        )
        for pass_ in manifest.passes
    )
    base = BaseShape(manifest.base.name, manifest.base.modules)
    try:
        return Composition(base, manifest.task, passes, manifest.method, manifest.card)
    except OnepassError as error:
        raise OnepassError(f"{folder / MANIFEST}: {error}") from error
