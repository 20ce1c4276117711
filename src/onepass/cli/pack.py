"""`onepass pack`: the set of files that a device holds; `onepass pack verify`: check it."""

from pathlib import Path
from typing import Annotated

import typer

from onepass.api.outputs import check_writable
from onepass.cli.device_set import (
    NO_ADAPTERS,
    AdapterType,
    BaseType,
    Linked,
    Merged,
    OwnBase,
    show_set,
)
from onepass.cli.options import FoundModel, OneTask, TasksFile, refuse
from onepass.cli.show import note
from onepass.core.errors import OnepassError

VERIFY = "verify"


def pack(
    ctx: typer.Context,
    whats: Annotated[
        list[str],  # not paths, which are equal for verify and ./verify
        typer.Argument(
            metavar="COMPOSITION|ADAPTER... | verify DIR",
            help="Folders that `calibrate`, `train` or `merge` wrote; or the word verify and a "
            "folder written here. "
            "A composition in a folder verify is ./verify.",
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write.")] = None,
    task: OneTask = None,
    tasks: TasksFile = None,
    model: FoundModel = None,
    base: OwnBase = None,
    linked: Linked = False,
    base_type: BaseType = None,
    adapter_type: AdapterType = None,
    merged: Merged = False,
    fused: Annotated[
        bool, typer.Option(help="Also each composition as one adapter, for other runtimes.")
    ] = False,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain",
            help="Store a calibration for each layer, as plain llama.cpp reads it.",
        ),
    ] = False,
) -> None:
    """Write what a device holds: one base, task adapters, calibrations, and how they compose.

    A base that is a GGUF file, in any type that llama.cpp runs, is taken as it is; others are
    converted.

    The compositions share the base and the task adapters, so that one more combination costs its
    calibration only. A calibration is the same in all layers and stored once; with `--plain` it is
    stored for each layer, as plain llama.cpp wants it.

    The set carries what PyTorch computes on the stored weights for a short conversation; `onepass
    pack verify` compares that with llama.cpp, and checks every file's checksum and header. Run
    it with `onepass run`.

    \b
    Examples:
      onepass pack COMPOSITION OTHER --out device
      onepass pack COMPOSITION --out device --base model-Q4_K_M.gguf
      onepass pack COMPOSITION --out device --base-type f16
          --model MODEL_FOLDER
      onepass pack verify device
    """
    if whats[0] == VERIFY:
        refuse(ctx, set(ctx.params) - {"whats", "base"}, "says nothing about pack verify")
        _verify([Path(folder) for folder in whats[1:]], base)
        return
    if merged:
        refuse(ctx, ["adapter_type", "fused", "plain"], NO_ADAPTERS)
    if out is None:
        raise OnepassError("say where to write the set: --out DIR")
    check_writable(out)

    from onepass.adapters.storage import check_replaceable
    from onepass.api.exporting import compositions_of, named_by_folder, write_set
    from onepass.export.gguf.device_set import OWN_FILES
    from onepass.export.types import types_of_set

    check_replaceable(out, OWN_FILES)
    types_of_set(base_type or "q4_0", adapter_type)
    named, loaded = compositions_of(named_by_folder(whats), model, task, tasks, base)
    written = write_set(
        named, loaded, out, base_type, adapter_type, otherwise="q4_0", fused=fused, merged=merged,
        gguf=base, linked=linked, vectors=True, compactly=not plain, told=note,
    )  # fmt: skip
    for remark in written.remarks:
        note(f"note: {remark}")
    assert written.manifest is not None
    show_set(out, written.manifest)
    note(f"check it: onepass pack verify {out}")
    note(f"run it: onepass run {out}")


def _verify(folders: list[Path], base: Path | None) -> None:
    if len(folders) != 1:
        raise OnepassError(f"pack verify takes one folder, found {len(folders)}")

    from onepass.serve.verify import verify

    for checked in verify(folders[0], base=base):
        typer.echo(
            f"{checked.composition}\t{checked.tokens} tokens\tlargest difference "
            f"{checked.difference:.2g} of {checked.tolerance:.2g} allowed"
        )
    note(f"{folders[0]}: every file and test vector is verified")
