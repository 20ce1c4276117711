"""`onepass cost`: what methods cost: of a model's shape, a saved composition, or finished runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onepass.cli.show import note, print_table

if TYPE_CHECKING:
    pass


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
    from onepass.api.costs import built_in, model_shape, paper_table, parameter_table
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
        names = others or list(built_in())
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
