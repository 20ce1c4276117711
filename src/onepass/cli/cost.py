"""`onepass cost`: what each method stores, for a model's shape or for a saved composition."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onepass.cli.show import print_table
from onepass.core.errors import OnepassError
from onepass.model.assets import TINY

if TYPE_CHECKING:
    from onepass.adapters.shape import BaseShape

BYTES = 2  # per parameter: the paper counts storage in 16 bits


def cost(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL|COMPOSITION]...",
            help="Built-in shapes, model folders or their config.json, hub names, or compositions; "
            "by default the three models of arXiv 2507.16083.",
        ),
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="Of a LoRA on all seven projections.")] = 32,
    calibration_rank: Annotated[int, typer.Option(min=1, help="Of LC++.")] = 4,
) -> None:
    """Count the parameters and bytes of each method for a model.

    From the model's configuration alone: no weights are loaded. Built-in are llama-3.2-1b,
    qwen2.5-1.5b and stablelm-2-1.6b, which give table 2 of the paper. For a saved composition:
    its passes, and what it stores beside the base and the task adapters.

    \b
    Examples:
      onepass cost
      onepass cost llama-3.2-1b MODEL_FOLDER --rank 16
      onepass cost COMPOSITION
    """
    from onepass.adapters.composition import MANIFEST

    compositions = [name for name in models or [] if Path(name, MANIFEST).is_file()]
    others = [name for name in models or [] if name not in compositions]
    if compositions:
        _print_compositions(compositions)
    if others or not compositions:
        names = others or list(_built_in())
        shapes = [model_shape(name) for name in names]
        print_table(*parameter_table(names, shapes, rank, calibration_rank), numbers=True)


def _print_compositions(folders: Sequence[str]) -> None:
    from onepass.adapters.composition import cost as cost_of
    from onepass.adapters.composition import load_composition

    costs = [cost_of(load_composition(folder)) for folder in folders]
    print_table(
        ("composition", "passes", "extra parameters", "extra bytes"),
        [
            (folder, str(c.passes), f"{c.extra_parameters:,}", f"{c.extra_bytes:,}")
            for folder, c in zip(folders, costs, strict=True)
        ],
        numbers=True,
    )


def parameter_table(
    names: Sequence[str], shapes: Sequence["BaseShape"], rank: int, calibration_rank: int
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: parameters of a LoRA, LC and LC++ per model, and their means in 16 bits."""
    from onepass.adapters.cost import lc_parameters, lcpp_parameters, lora_parameters

    counts = [
        [lora_parameters(s, rank), lc_parameters(s), lcpp_parameters(s, calibration_rank)]
        for s in shapes
    ]
    header = ["model", f"LoRA r={rank}", "LC", f"LC++ r={calibration_rank}"]
    rows = [[name, *(f"{n:,}" for n in row)] for name, row in zip(names, counts, strict=True)]
    lora, *small = (fmean(column) for column in zip(*counts, strict=True))
    rows.append(
        ["mean", f"{lora:,.0f} = {_mebibytes(lora)}"]
        + [f"{n:,.0f} = {_mebibytes(n)} = {100 * n / lora:.2f} %" for n in small]
    )
    return header, rows


def _mebibytes(parameters: float) -> str:
    size = parameters * BYTES / 2**20
    return f"{size:.2f} MiB" if size >= 1 else f"{size:.2g} MiB"


def model_shape(name: str) -> "BaseShape":
    """The shape of a model, by building it on the meta device, where it takes no memory.

    `name`: a built-in shape, "tiny", a model folder or its config.json, or a hub name.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from onepass.model.load import base_shape

    try:
        if name in _built_in():
            config = AutoConfig.for_model(**_built_in()[name])
        else:
            where = str(TINY) if name == "tiny" else name
            config = AutoConfig.from_pretrained(where, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises everything, bare Exception included
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OnepassError(
            f"cannot read the configuration of {name!r}: {reason}; give a model folder, a "
            f"composition, or one of {', '.join(_built_in())}"
        ) from error
    return base_shape(model, name=name)


def _built_in() -> dict[str, dict[str, Any]]:
    """What decides the shape of the paper's models, from their config.json on the hub."""
    shapes = files("onepass.cli").joinpath("shapes.json").read_text(encoding="utf-8")
    built_in: dict[str, dict[str, Any]] = json.loads(shapes)
    return built_in
