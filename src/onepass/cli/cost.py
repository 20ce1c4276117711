"""`onepass cost`: what methods cost: of a model's shape, a saved composition, or finished runs."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onepass.cli.show import note, print_table
from onepass.core.errors import OnepassError

if TYPE_CHECKING:
    from onepass.adapters.shape import BaseShape

BYTES = 2  # per parameter: the paper counts storage in 16 bits


def cost(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL|COMPOSITION|RUNS]...",
            help="Built-in shapes, model folders or their config.json, hub names, compositions, or "
            "what `onepass bench` made; by default the three models of arXiv 2507.16083.",
        ),
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="Of a LoRA on all seven projections.")] = 32,
    calibration_rank: Annotated[int, typer.Option(min=1, help="Of LC++.")] = 4,
    paper: Annotated[
        bool,
        typer.Option(
            "--paper", help="Table 2 of the paper: passes, parameters and storage by method."
        ),
    ] = False,
) -> None:
    """Count the parameters and bytes of each method for a model.

    From the model's configuration alone: no weights are loaded. Built-in are llama-3.2-1b,
    qwen2.5-1.5b and stablelm-2-1.6b, which give table 2 of the paper. For a saved composition:
    its passes, and what it stores beside the base and the task adapters. For the folder of a
    bench: the seconds, tokens and memory that each method took.

    \b
    Examples:
      onepass cost
      onepass cost llama-3.2-1b MODEL_FOLDER --rank 16
      onepass cost --paper
      onepass cost COMPOSITION
      onepass cost runs/smalltown
    """
    from onepass.adapters.composition import MANIFEST
    from onepass.comparison.runs import RECIPE

    given = list(models or [])
    compositions = [name for name in given if Path(name, MANIFEST).is_file()]
    benches = [name for name in given if Path(name, RECIPE).is_file()]
    others = [name for name in given if name not in (*compositions, *benches)]
    if compositions:
        _print_compositions(compositions)
    for folder in benches:
        _print_measured(Path(folder))
    if others or not given:
        names = others or list(_built_in())
        shapes = [model_shape(name) for name in names]
        table = paper_table if paper else parameter_table
        print_table(*table(names, shapes, rank, calibration_rank), numbers=True)
    if paper and not others:
        note(
            "Means over the three models, weights in 16 bits, MB = 2^20 bytes. The paper prints "
            "30M and 57.10 MB, 23K and 0.05 MB, 166K and 0.32 MB."
        )


def _print_measured(folder: Path) -> None:
    from onepass.comparison.results import Results
    from onepass.comparison.runs import load_runs
    from onepass.comparison.tables import measured

    table = measured(Results(*load_runs(folder)))
    print_table([column.heading for column in table.columns], table.texts(), numbers=True)
    note(f"{folder}: {table.note}")


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


def paper_table(
    names: Sequence[str], shapes: Sequence["BaseShape"], rank: int, calibration_rank: int
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of table 2: what one more compositional task costs, the mean over models."""
    from onepass.adapters.cost import lc_parameters, lcpp_parameters, lora_parameters

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


def model_shape(name: str) -> "BaseShape":
    """The shape of a model, by building it on the meta device, where it takes no memory.

    `name`: a built-in shape, "tiny", a model folder or its config.json, or a hub name.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from onepass.model.load import load_skeleton
    from onepass.model.targets import base_shape

    if name not in _built_in():
        try:
            return base_shape(load_skeleton(_folder_of(name)), name=name)
        except OnepassError as error:
            raise OnepassError(
                f"{error}; a composition, what `onepass bench` made, or one of "
                f"{', '.join(_built_in())} has a cost too"
            ) from error
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**_built_in()[name]))
    return base_shape(model, name=name)


def _folder_of(name: str) -> str:
    """A model's folder may be given by its config.json."""
    path = Path(name)
    return str(path.parent) if path.name == "config.json" and path.is_file() else name


def _built_in() -> dict[str, dict[str, Any]]:
    """What decides the shape of the paper's models, from their config.json on the hub."""
    shapes = files("onepass.cli").joinpath("shapes.json").read_text(encoding="utf-8")
    built_in: dict[str, dict[str, Any]] = json.loads(shapes)
    return built_in
