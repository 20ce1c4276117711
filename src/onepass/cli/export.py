"""`onepass export`: a composition for other runtimes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onepass.cli.inputs import torch_dtype
from onepass.cli.options import SaveAs
from onepass.cli.outputs import check_writable
from onepass.cli.show import note
from onepass.tasks.task import parse_task


class Target(StrEnum):
    peft = "peft"
    merged = "merged"


def export(
    composition: Annotated[
        Path, typer.Argument(metavar="COMPOSITION", help="A folder that `calibrate` wrote.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    target: Annotated[
        Target,
        typer.Option("--as", help="peft: one LoRA adapter; merged: the whole model, changed."),
    ] = Target.peft,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The base, for merged; by default the composition's."),
    ] = None,
    save_as: SaveAs = "float16",
) -> None:
    """Write a composition as one PEFT adapter or as a whole model.

    Everything in a pass is low-rank, so the adapter computes exactly what the composition does.
    Only the biases of `calibrate --kind lc --form output` do not fit into a LoRA; `merged` holds
    them where the model's architecture has biases.

    \b
    Examples:
      onepass export COMPOSITION --out adapter
      onepass export COMPOSITION --out model --as merged --model MODEL_FOLDER
    """
    check_writable(out)

    from onepass.adapters.composition import load_composition
    from onepass.export import export_merged, export_peft
    from onepass.model.load import load_base

    composed = load_composition(composition)
    dtype = torch_dtype(save_as)
    if target is Target.peft:
        export_peft(composed, out, dtype)
    else:
        # In float32, so that the sum is rounded once only, when it is saved.
        export_merged(
            composed, load_base(model or composed.base.name, "cpu", "float32"), out, dtype
        )
    note(f"{out}: put this line and an empty one before each text:")
    typer.echo(parse_task(composed.passes[0].task).instruction)
