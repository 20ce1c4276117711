"""Calibrations: the learned parameters of LC, LC++ and others (docs/calibration.md).

One set per projection type t ("q_proj", ...; `BaseShape.projections` names them), shared by all
layers that have it. With W the base's weight (out,
in) and ΔW the linear merge of the task adapters in a layer:

    LC++         y = (W + ΔW + P2 P1) x    P1 is "down" (r, in), P2 is "up" (out, r)
    LC, output   y = (W + ΔW) x + p        p is "bias" (out,)
    LC, column   y = (W + ΔW + p 1ᵀ) x     the same p on every column: a LoRA with down = 1ᵀ

The paper (arXiv 2507.16083) does not say which of the last two its bias is; both have one size.
Three others act on the adapters' own factors A_i and B_i, see `onepass.adapters.factors`: "core",
"lc-gain" and "cat".
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from onepass.adapters.history import History, read_history, write_history
from onepass.adapters.lora import Lora, short_count
from onepass.adapters.storage import read_tensors, stored_bytes, write_tensors
from onepass.core.errors import OnepassError
from onepass.core.files import atomic_file

Kind = Literal["lc", "lc++", "core", "lc-gain", "cat"]
Form = Literal["output", "column", "lowrank", "core", "gain", "weights"]

FORMS: dict[str, tuple[Form, ...]] = {
    "lc": ("output", "column"),
    "lc++": ("lowrank",),
    "core": ("core",),
    "lc-gain": ("gain",),
    "cat": ("weights",),
}
OF_FACTORS = ("core", "gain", "weights")
"""The forms that act on the factors of the adapters, and so mean nothing without them."""
_SHAPES: dict[str, dict[str, tuple[str, ...]]] = {
    "lc": {"bias": ("out",)},
    "lc++": {"down": ("r", "in"), "up": ("out", "r")},
    "core": {"core": ("R", "R")},
    "lc-gain": {"gain": ("out",), "bias": ("out",)},
    "cat": {"weights": ("L", "N")},
}
_METADATA = "onepass.calibration"


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Learned parameters by projection type: {"bias"} for lc, {"down", "up"} for lc++.

    core has {"core"}, lc-gain {"gain", "bias"} and cat {"weights"}.
    history: the losses of their training; None if unknown.
    """

    kind: Kind
    form: Form
    tensors: dict[str, dict[str, Tensor]]
    history: History | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in FORMS:
            raise OnepassError(f"calibration kind {self.kind!r}: expected {' or '.join(FORMS)}")
        if self.form not in FORMS[self.kind]:
            raise OnepassError(
                f"calibration form {self.form!r} of {self.kind}: "
                f"expected {' or '.join(FORMS[self.kind])}"
            )
        for projection, parts in self.tensors.items():
            _check_parts(self.kind, projection, parts)

    def __repr__(self) -> str:
        size = f"{len(self.tensors)} projections, {short_count(self.parameter_count)} parameters"
        return f"Calibration({self.kind} {self.form}, {size})"

    @property
    def of_factors(self) -> bool:
        """Whether it acts on the factors of the pass's adapters (`onepass.adapters.factors`)."""
        return self.form in OF_FACTORS

    @property
    def parameter_count(self) -> int:
        return sum(t.numel() for parts in self.tensors.values() for t in parts.values())


def calibration_lora(parts: Mapping[str, Tensor], in_: int) -> Lora:
    """What a calibration adds to a weight (out, in): P2 P1 of LC++, or p 1ᵀ of column LC."""
    if "bias" not in parts:
        return Lora(parts["down"], parts["up"])
    bias = parts["bias"]
    return Lora(down=bias.new_ones(1, in_), up=bias[:, None])


def _check_parts(kind: Kind, projection: str, parts: Mapping[str, Tensor]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in parts.items()}
    if not projection:
        raise OnepassError(f"calibration of {projection!r}: expected a projection such as 'q_proj'")
    shapes = _SHAPES[kind]
    if parts.keys() != shapes.keys():
        raise OnepassError(
            f"calibration of {projection}: {kind} has {sorted(shapes)}, found {sorted(found)}"
        )
    sizes: dict[str, int] = {}
    for name, letters in shapes.items():
        pairs = list(zip(letters, found[name], strict=False))
        if len(found[name]) != len(letters) or any(sizes.setdefault(*p) != p[1] for p in pairs):
            what = " and ".join(f"{each} {found[each]}" for each in shapes)
            should = " and ".join(str(each).replace("'", "") for each in shapes.values())
            raise OnepassError(f"calibration of {projection}: {what} should be {should}")


def save_calibration(
    calibration: Calibration, path: Path | str, dtype: torch.dtype | None = None
) -> None:
    """Write a safetensors file, and the history beside it; `dtype` None keeps each tensor's own.

    Raises:
        OnepassError: the file cannot be written, or a value is NaN or Inf or does not fit `dtype`.
    """
    with atomic_file(path) as temporary:
        write_calibration(calibration, temporary, dtype)
    write_history(calibration.history, history_path(path))


def history_path(path: Path | str) -> Path:
    """Where the history of the calibration in the file `path` is kept."""
    return Path(path).with_suffix(".history.json")


def write_calibration(
    calibration: Calibration, path: Path, dtype: torch.dtype | None = None
) -> None:
    """Write the file in place; `save_calibration` without the safety."""
    write_tensors(_named(calibration), path, dtype, _metadata(calibration))


def calibration_bytes(calibration: Calibration, dtype: torch.dtype | None = None) -> int:
    """The size in bytes of the file `save_calibration` writes."""
    return stored_bytes(_named(calibration), dtype, _metadata(calibration))


def load_calibration(path: Path | str) -> Calibration:
    """Read what `save_calibration` wrote, on the CPU, in the file's dtype.

    Raises:
        OnepassError: the file is missing, corrupt, cut short, holds NaN or Inf, or is no
            calibration.
    """
    path = Path(path)
    named, metadata = read_tensors(path)
    try:
        described = json.loads(metadata.get(_METADATA, ""))
        kind, form = described["kind"], described["form"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OnepassError(f"{path} is no calibration: its metadata lack {_METADATA!r}") from error
    if kind not in get_args(Kind) or form not in get_args(Form):
        raise OnepassError(f"{path}: unknown calibration kind {kind!r} or form {form!r}")
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in named.items():
        projection, _, part = name.rpartition(".")
        tensors.setdefault(projection, {})[part] = tensor
    try:
        return Calibration(kind, form, tensors, read_history(history_path(path)))
    except OnepassError as error:
        raise OnepassError(f"{path}: {error}") from error


def _named(calibration: Calibration) -> dict[str, Tensor]:
    return {
        f"{projection}.{part}": tensor
        for projection, parts in calibration.tensors.items()
        for part, tensor in parts.items()
    }


def _metadata(calibration: Calibration) -> dict[str, str]:
    described = {"kind": calibration.kind, "form": calibration.form}
    return {_METADATA: json.dumps(described, sort_keys=True)}
