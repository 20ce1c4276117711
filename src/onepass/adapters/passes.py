"""A pass: one run of the base with weighted adapters and at most one calibration.

As all of it is low-rank, a pass is exactly a LoRA (and, for output-form LC and lc-gain, biases):
`pass_delta` and `pass_bias` are the one definition of what a composition computes, used to fold,
attach and export.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.calibration import Calibration, calibration_lora
from onepass.adapters.factors import Factors, added_up, check_factors, factors_by_module
from onepass.adapters.lora import projection_types
from onepass.adapters.lowrank import weighted_sum
from onepass.adapters.shape import BaseShape, check_adapter, check_calibration
from onepass.core.errors import OnepassError
from onepass.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Weighted:
    """An adapter and its weight in a pass.

    stored: the adapter exists for this composition only (a joint expert, a merged variant), so
    it counts as extra storage; a task adapter, which the device holds anyway, does not.
    """

    adapter: Adapter
    weight: float = 1.0
    stored: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise OnepassError(f"adapter {self.adapter.name!r}: weight {self.weight} is not finite")


@dataclass(frozen=True, eq=False)
class Pass:
    """One run of the base over its input, for `task` (which decides the prompt).

    shots: (input, target) pairs to show in the prompt, for in-context learning.
    """

    task: Task
    adapters: tuple[Weighted, ...] = ()
    calibration: Calibration | None = None
    shots: tuple[tuple[str, str], ...] = ()


def check_pass(pass_: Pass, base: BaseShape) -> None:
    """Raise `OnepassError` if an adapter or the calibration does not fit the base or each other."""
    adapters = [weighted.adapter for weighted in pass_.adapters]
    for adapter in adapters:
        check_adapter(adapter, base)
    calibration = pass_.calibration
    if calibration is not None:
        check_calibration(calibration, base)
        if calibration.of_factors:
            check_factors(
                calibration, adapters, projection_types(reach(pass_, base), calibration.tensors)
            )


def pass_delta(pass_: Pass, shape: BaseShape | None = None) -> dict[str, Lora]:
    """ΔW of a pass by module, as one exact LoRA each (float32 or wider, differentiable).

    Adapters first, in their order, then LC++ (its pair) or column LC (down = 1ᵀ); core, lc-gain and
    cat add no components, but change those of the adapters. A calibration reaches the modules that
    the pass's adapters change; in a pass without adapters, all modules of its projection types in
    `shape`, which is then required.
    """
    parts: dict[str, tuple[list[Lora], list[float]]] = {}
    for weighted in pass_.adapters:
        for module, lora in weighted.adapter.modules.items():
            loras, weights = parts.setdefault(module, ([], []))
            loras.append(lora)
            weights.append(weighted.weight)
    calibration = pass_.calibration
    if calibration is None or calibration.of_factors:
        changed = {} if calibration is None else _of_factors(pass_, calibration, whole=True)
        unchanged = {m: weighted_sum(*part) for m, part in parts.items() if m not in changed}
        return {module: changed.get(module) or unchanged[module] for module in parts}
    for module, lora in calibration_delta(pass_, shape).items():
        loras, weights = parts.setdefault(module, ([], []))
        loras.append(lora)
        weights.append(1.0)
    return {module: weighted_sum(loras, weights) for module, (loras, weights) in parts.items()}


def calibration_delta(pass_: Pass, shape: BaseShape | None = None) -> dict[str, Lora]:
    """What the pass's calibration adds to the merge's ΔW, by module; {} of output-form LC.

    A core, a gain or a weight of cat has the rank of all the pass's adapters together. Reach as in
    `pass_delta`.
    """
    calibration = pass_.calibration
    if calibration is None or calibration.form == "output":
        return {}
    if calibration.of_factors:
        return _of_factors(pass_, calibration, whole=False)
    learned = _learned(calibration, reach(pass_, shape))
    return {module: calibration_lora(parts, in_) for module, (parts, in_) in learned.items()}


def pass_factors(pass_: Pass, types: Mapping[str, str]) -> dict[str, Factors]:
    """The factors of the pass's adapters in each module of `types`, see `factors_by_module`."""
    adapters = [weighted.adapter for weighted in pass_.adapters]
    weights = [weighted.weight for weighted in pass_.adapters]
    return factors_by_module(adapters, weights, types)


def _of_factors(pass_: Pass, calibration: Calibration, whole: bool) -> dict[str, Lora]:
    """What a calibration of the adapters' factors adds; or the `whole`, with the linear merge."""
    types = projection_types(reach(pass_, None), calibration.tensors)
    found = {}
    for module, factors in pass_factors(pass_, types).items():
        up = added_up(calibration.form, calibration.tensors[types[module]], factors)
        found[module] = Lora(factors.down, factors.merge() + up if whole else up)
    return found


def pass_bias(pass_: Pass, shape: BaseShape | None = None) -> dict[str, Tensor]:
    """The (out,) bias that a pass adds to each module's output, of output-form LC and of lc-gain.

    Reach as in `pass_delta`. Float32 or wider, differentiable.
    """
    calibration = pass_.calibration
    if calibration is None or calibration.form not in ("output", "gain"):
        return {}
    reached = _learned(calibration, reach(pass_, shape))
    return {module: _wide(learned["bias"]) for module, (learned, _) in reached.items()}


def _learned(
    calibration: Calibration, modules: dict[str, tuple[int, int]]
) -> dict[str, tuple[dict[str, Tensor], int]]:
    """By module: the calibration's tensors for its projection type, and the module's in."""
    types = projection_types(modules, calibration.tensors)
    return {m: (calibration.tensors[type_], modules[m][1]) for m, type_ in types.items()}


def reach(pass_: Pass, shape: BaseShape | None) -> dict[str, tuple[int, int]]:
    """The modules, with their (out, in), that the pass's calibration acts on."""
    if pass_.adapters:
        return {
            module: lora.shape
            for weighted in pass_.adapters
            for module, lora in weighted.adapter.modules.items()
        }
    if shape is None:
        raise OnepassError(
            f"pass for {pass_.task} has a calibration and no adapters: give the base's shape, "
            "which says what layers it acts on"
        )
    return shape.modules


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
