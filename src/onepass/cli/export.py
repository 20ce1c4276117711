"""`onepass export`: a composition, or an adapter, for other runtimes."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onepass.api.outputs import check_writable
from onepass.cli import options as o
from onepass.cli.device_set import (
    NO_ADAPTERS,
    AdapterType,
    BaseType,
    Linked,
    Merged,
    OwnBase,
    show_set,
)
from onepass.cli.show import note


class Target(StrEnum):
    peft = "peft"
    merged = "merged"
    gguf = "gguf"
    mlx = "mlx"
    vllm = "vllm"


def export(
    ctx: typer.Context,
    whats: Annotated[
        list[str],
        typer.Argument(
            metavar="COMPOSITION|ADAPTER...",
            help="Folders that `calibrate`, `train` or `merge` wrote, or any PEFT adapters.",
        ),
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
    task: o.OneTask = None,
    tasks: o.TasksFile = None,
    model: o.FoundModel = None,
    base: OwnBase = None,
    linked: Linked = False,
    base_type: BaseType = None,
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
      onepass export COMPOSITION --out model --format merged
          --model MODEL_FOLDER
      onepass export ADAPTER --task summarize --out device --format gguf
      onepass export COMPOSITION OTHER --out device --format gguf
          --base-type q4_0
      onepass export COMPOSITION --out mlx --format mlx
      onepass export COMPOSITION OTHER --out served --format vllm
          && served/serve.sh
    """
    check_writable(out)
    about = f"says nothing about --format {target}"
    if target is Target.gguf:
        o.refuse(ctx, ["save_as"], f"{about}; see --base-type and --adapter-type")
        if merged:
            o.refuse(ctx, ["adapter_type"], NO_ADAPTERS)
    else:
        names = ["base", "linked", "base_type", "adapter_type", "merged"]
        o.refuse(ctx, names, f"{about}; see --model and --save-as")

    from onepass.api.exporting import export as export_all
    from onepass.api.exporting import named_by_folder

    written = export_all(
        named_by_folder(whats), target.value, out, base=model, task=task, tasks=tasks,
        save_as=save_as, base_type=base_type, adapter_type=adapter_type, merged=merged, gguf=base,
        linked=linked, told=note,
    )  # fmt: skip
    for remark in written.remarks:
        note(f"note: {remark}")
    if written.manifest is not None:
        show_set(out, written.manifest)
        return
    if target is Target.vllm:
        note(f"{out}: run {out / 'serve.sh'}, which is this, in that folder:")
        typer.echo(written.command)
        return
    (pass_,) = written.passes
    prompt = pass_.task.message("{text}")
    if target is Target.mlx:
        # mlx-lm takes \\n in --prompt for the end of a line.
        words = ["--model", written.base, "--adapter-path", str(out)]
        end = "\n\n" if written.plain else ""
        words += ["--prompt", f"{pass_.task.message('TEXT')}{end}".replace("\n", "\\n")]
        note(f"{out}: run it: {shlex.join(['mlx_lm.generate', *words])}")
    note(f"{out}: ask it like this, with the text in the place of {{text}}:")
    if pass_.task.system:
        note(f"system message: {pass_.task.system}")
    typer.echo(prompt)
