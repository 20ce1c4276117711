"""What methods cost, from a model's shape alone: parameters, bytes, passes."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from onepass.adapters.cost import (
    core_parameters,
    lc_parameters,
    lcpp_parameters,
    lora_parameters,
)
from onepass.adapters.shape import BaseShape
from onepass.core.errors import OnepassError
from onepass.model.load import load_skeleton
from onepass.model.targets import base_shape

BYTES = 2  # per parameter: the paper counts storage in 16 bits


def parameter_table(
    names: Sequence[str], shapes: Sequence[BaseShape], rank: int, calibration_rank: int
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: parameters of a LoRA and of calibrations per model, means in 16 bits.

    The core is one for two such LoRAs.
    """
    counts = [
        [
            lora_parameters(s, rank), lc_parameters(s), lcpp_parameters(s, calibration_rank),
            core_parameters(s, [rank, rank]),
        ]
        for s in shapes
    ]  # fmt: skip
    header = ["model", f"LoRA r={rank}", "LC", f"LC++ r={calibration_rank}", "core of two"]
    rows = [[name, *(f"{n:,}" for n in row)] for name, row in zip(names, counts, strict=True)]
    lora, *small = (fmean(column) for column in zip(*counts, strict=True))
    rows.append(
        ["mean", f"{lora:,.0f} = {_mebibytes(lora)}"]
        + [f"{n:,.0f} = {_mebibytes(n)} = {100 * n / lora:.2f} %" for n in small]
    )
    return header, rows


def paper_table(
    names: Sequence[str], shapes: Sequence[BaseShape], rank: int, calibration_rank: int
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of table 2: what one more compositional task costs, the mean over models."""
    counts: dict[str, tuple[int, list[float]]] = {
        "multi-step": (2, [0.0]),
        "joint-expert": (1, [lora_parameters(shape, rank) for shape in shapes]),
        "lc": (1, [lc_parameters(shape) for shape in shapes]),
        "lc++": (1, [lcpp_parameters(shape, calibration_rank) for shape in shapes]),
    }
    lora = fmean(counts["joint-expert"][1])
    header = [
        "method",
        "inferences",
        "additional parameters",
        "additional storage, MB",
        "% of an adapter",
    ]
    rows = [
        [
            name, str(passes), f"{fmean(found):,.0f}", f"{fmean(found) * BYTES / 2**20:.3f}",
            f"{100 * fmean(found) / lora:.2f}",
        ]
        for name, (passes, found) in counts.items()
    ]  # fmt: skip
    return header, rows


def _mebibytes(parameters: float) -> str:
    size = parameters * BYTES / 2**20
    return f"{size:.2f} MiB" if size >= 1 else f"{size:.2g} MiB"


def model_shape(name: str) -> BaseShape:
    """The shape of a model, by building it on the meta device, where it takes no memory.

    `name`: a built-in shape, "tiny", a model folder or its config.json, or a hub name.
    """
    if name not in built_in():
        try:
            return base_shape(load_skeleton(_folder_of(name)), name=name)
        except OnepassError as error:
            raise OnepassError(
                f"{error}; a composition, what `onepass bench` made, or one of "
                f"{', '.join(built_in())} has a cost too"
            ) from error
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**built_in()[name]))
    return base_shape(model, name=name)


def _folder_of(name: str) -> str:
    """A model's folder may be given by its config.json."""
    path = Path(name)
    return str(path.parent) if path.name == "config.json" and path.is_file() else name


def built_in() -> dict[str, dict[str, Any]]:
    """What decides the shape of the paper's models, from their config.json on the hub."""
    shapes = files("onepass.api").joinpath("shapes.json").read_text(encoding="utf-8")
    built_in: dict[str, dict[str, Any]] = json.loads(shapes)
    return built_in
