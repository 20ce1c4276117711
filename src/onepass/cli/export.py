"""`onepass export`: a composition for other runtimes."""

import json
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onepass.cli.device_set import (
    NO_ADAPTERS,
    AdapterType,
    BaseType,
    Merged,
    base_of,
    base_path,
    named_compositions,
    note_rounding,
    show_set,
)
from onepass.cli.inputs import torch_dtype
from onepass.cli.options import refuse
from onepass.cli.outputs import check_writable
from onepass.cli.show import note
from onepass.core.errors import OnepassError


class Target(StrEnum):
    peft = "peft"
    merged = "merged"
    gguf = "gguf"
    mlx = "mlx"
    vllm = "vllm"


def export(
    ctx: typer.Context,
    compositions: Annotated[
        list[Path],
        typer.Argument(metavar="COMPOSITION...", help="Folders that `calibrate` wrote."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    target: Annotated[
        Target,
        typer.Option(
            "--format",
            "--as",
            help="peft: one LoRA adapter; merged: the whole model, changed; gguf: for llama.cpp; "
            "mlx: one adapter for mlx-lm; vllm: adapters and the command that serves them.",
        ),
    ] = Target.peft,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The base, for all but peft; by default the composition's."
        ),
    ] = None,
    base_type: BaseType = "f16",
    adapter_type: AdapterType = None,
    merged: Merged = False,
    save_as: Annotated[
        str,
        typer.Option(
            help="Of the weights in formats other than gguf: float16, bfloat16 or float32."
        ),
    ] = "float16",
) -> None:
    """Write a composition for other runtimes: one adapter, a whole model, or files for llama.cpp.

    Everything in a pass is low-rank, so the adapter computes exactly what the composition does.
    Only the biases of `calibrate --kind lc --form output` do not fit into a LoRA; `merged` and
    `gguf` hold them where the model's architecture has biases.

    `vllm` takes several compositions, too, and of several passes: each pass is served under a name
    of its own, as `onepass generate --endpoint URL --served NAME...` asks for them.

    `gguf` takes several compositions: they share the base and the task adapters. `onepass pack`
    writes them for onepass's own engine, smaller and with a test vector. docs/device.md describes
    the files.

    \b
    Examples:
      onepass export COMPOSITION --out adapter
      onepass export COMPOSITION --out model --format merged --model MODEL_FOLDER
      onepass export COMPOSITION OTHER --out device --format gguf --base-type q4_0
      onepass export COMPOSITION --out mlx --format mlx
      onepass export COMPOSITION OTHER --out served --format vllm && served/serve.sh
    """
    check_writable(out)
    if len(compositions) > 1 and target not in (Target.gguf, Target.vllm):
        raise OnepassError(
            f"{target} holds one composition, found {len(compositions)}; export them one by one, "
            "or together as gguf or vllm"
        )
    about = f"says nothing about --format {target}"
    if target is Target.gguf:
        refuse(ctx, ["save_as"], f"{about}; see --base-type and --adapter-type")
        if merged:
            refuse(ctx, ["adapter_type"], NO_ADAPTERS)
    else:
        refuse(ctx, ["base_type", "adapter_type", "merged"], f"{about}; see --save-as")
    if target is Target.peft:
        refuse(ctx, ["model"], f"{about}, which needs no base")

    from onepass.adapters.adapter import ADAPTER_FILES
    from onepass.adapters.composition import load_composition
    from onepass.adapters.storage import check_replaceable
    from onepass.export import export_gguf, export_merged, export_mlx, export_peft, export_vllm
    from onepass.export.gguf.device_set import SET_FILES
    from onepass.export.merged import MODEL_FILES
    from onepass.export.mlx import MLX_FILES, unread_by_mlx
    from onepass.export.vllm import vllm_files

    files = {
        Target.peft: ADAPTER_FILES, Target.merged: MODEL_FILES, Target.gguf: SET_FILES,
        Target.mlx: MLX_FILES, Target.vllm: vllm_files(out),
    }  # fmt: skip
    check_replaceable(out, files[target])
    if target is Target.gguf:
        from onepass.export.manifest import types_of_set

        types = types_of_set(base_type, adapter_type)
        named = named_compositions(compositions)
        note_rounding(named, types[0])
        base = base_of(named, model)
        manifest = export_gguf(named, base, out, *types, merged=merged, told=note)
        show_set(out, manifest)
        return
    dtype = torch_dtype(save_as)
    if target is Target.vllm:
        named = named_compositions(compositions)
        where = model or next(iter(named.values())).base.name
        command = export_vllm(named, out, base_path(where), dtype)
        note(f"{out}: run {out / 'serve.sh'}, which is this, in that folder:")
        typer.echo(command)
        return
    composed = load_composition(compositions[0])
    if target is Target.peft:
        export_peft(composed, out, dtype)
    elif target is Target.mlx:
        where = base_path(model or composed.base.name)
        unread = unread_by_mlx(Path(where))
        export_mlx(composed, out, dtype)
        if unread:
            note(
                "note: mlx-lm 0.32 does not read rope_parameters; without these fields in "
                f"{where}/config.json it runs another model, or none: {json.dumps(unread)[1:-1]}"
            )
        # mlx-lm takes \\n in --prompt for the end of a line.
        prompt = composed.passes[0].task.message("TEXT").replace("\n", "\\n")
        options = ["--model", where, "--adapter-path", str(out), "--prompt", prompt]
        note(f"{out}: run it: {shlex.join(['mlx_lm.generate', *options])}")
    else:
        # In float32, so that the sum is rounded once only, when it is saved.
        export_merged(composed, base_of({"": composed}, model), out, dtype)
    note(f"{out}: ask it like this, with the text in the place of {{text}}:")
    typer.echo(composed.passes[0].task.message("{text}"))
