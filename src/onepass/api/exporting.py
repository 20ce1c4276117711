"""Taking compositions and adapters to other runtimes."""

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from onepass import export as exporting
from onepass.adapters.composition import Composition, Pass
from onepass.adapters.storage import check_replaceable
from onepass.api.resolve import (
    BaseLike,
    BaseNotFound,
    TaskLike,
    TasksLike,
    as_composition,
    save_dtype,
    without_base,
)
from onepass.api.use import What
from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.export.config_fields import read_config
from onepass.export.single import is_activated, is_plain
from onepass.export.vllm import ACTIVATED, WITHOUT_ADAPTERS, vllm_files
from onepass.model.assets import TINY
from onepass.model.gguf_file import find_gguf
from onepass.model.load import Base, load_tokenizer

if TYPE_CHECKING:
    from onepass.export.manifest import Manifest

FORMATS = {
    "peft": "peft", "merged": "merged", "gguf": "gguf.device_set", "mlx": "mlx", "vllm": "vllm",
}  # fmt: skip
"""Export formats, and the module below `onepass.export` that writes each."""


@dataclass(frozen=True)
class Written:
    """What was written: the passes of the first composition, and what its user has to know.

    base: as another program finds it, a path or a hub name. manifest: of a set for llama.cpp.
    command: what serves adapters with vLLM. remarks: for people. plain: the base has no chat
    template, so a blank line ends a prompt.
    """

    folder: Path
    base: str
    passes: Sequence[Pass]
    manifest: "Manifest | None" = None
    command: str = ""
    remarks: list[str] = field(default_factory=list)
    plain: bool = False


def export(
    what: What | Mapping[str, What],
    format: str,
    folder: Path | str,
    *,
    base: BaseLike | None = None,
    task: TaskLike | None = None,
    tasks: TasksLike = None,
    save_as: str = "float16",
    base_type: str | None = None,
    adapter_type: str | None = None,
    merged: bool = False,
    gguf: Path | str | None = None,
    linked: bool = False,
    told: Callable[[str], None] = lambda line: None,
) -> Written:
    """Write a composition, or an adapter, for another runtime; docs/device.md has the formats.

    Args:
        what: one; or for "gguf" and "vllm" several, by the names they are to have.
        format: "peft" (one LoRA), "merged" (the whole model), "gguf" (llama.cpp), "mlx", "vllm".
        base: by default the one on record.
        task: of an adapter whose card states none.
        save_as: the dtype of weights in all formats but gguf.
        base_type, adapter_type, merged: of gguf; with the first or the last the base is converted.
        gguf: a GGUF file of the base, which a gguf set then has as it is; by default the one that
            `base` was read from. linked: leave it out of the set, which then refers to it.
        told: called with each file of a gguf set as it is written.
    """
    if format not in FORMATS:
        raise unknown("export format", format, list(FORMATS))
    several = dict(what) if isinstance(what, Mapping) else {Path(folder).name: what}
    if len(several) > 1 and format not in ("gguf", "vllm"):
        raise OnepassError(
            f"{format} holds one composition, found {len(several)}; export them one by one, or "
            "together as gguf or vllm"
        )
    folder, dtype = Path(folder), save_dtype(save_as)
    module = importlib.import_module(f"onepass.export.{FORMATS[format]}")
    check_replaceable(folder, vllm_files(folder) if format == "vllm" else module.OWN_FILES)
    if format in ("gguf", "merged"):
        named, loaded = compositions_of(several, base, task, tasks, gguf)
        if format == "gguf":
            return write_set(
                named, loaded, folder, base_type, adapter_type, merged=merged, gguf=gguf,
                linked=linked, told=told,
            )  # fmt: skip
        (first,) = named.values()
        exporting.export_merged(first, loaded, folder, dtype)
        return Written(folder, base_path(loaded.name), first.passes)
    named = {name: without_base(each, base, task, tasks) for name, each in several.items()}
    first = next(iter(named.values()))
    given = base.name if isinstance(base, Base) else base
    where = base_path(str(given or first.base.name))
    tokenizer = None
    if any(map(is_activated, named.values())):
        loaded_there = base.tokenizer if isinstance(base, Base) else None
        tokenizer = loaded_there or load_tokenizer(where)
    found = Written(folder, where, first.passes, plain=is_plain(first))
    if format == "peft":
        if found.plain:
            found.remarks.append(
                f"the base {where} has no chat template: give it the prompt and a blank line"
            )
        exporting.export_peft(first, folder, dtype, tokenizer)
    elif format == "mlx":
        from onepass.export.mlx import unread_by_mlx, window_of

        if unread := unread_by_mlx(Path(where)):
            found.remarks.append(
                f"mlx-lm 0.32 looks for older names of fields in {where}/config.json; without "
                f"these it runs another model, or none: {json.dumps(unread)[1:-1]}"
            )
        if window := window_of(Path(where)):
            found.remarks.append(
                f"mlx-lm 0.32 ignores the sliding window of {where}: on texts of more than "
                f"{window} tokens it computes something else"
            )
        exporting.export_mlx(first, folder, dtype)
    else:
        kind = read_config(Path(where)).get("model_type")
        if kind in WITHOUT_ADAPTERS:
            found.remarks.append(
                f"vLLM 0.22 takes no adapters for models of type {kind}; if yours does not "
                "either, export each composition as merged and serve that"
            )
        if tokenizer is not None:
            found.remarks.append(
                "vLLM 0.22 knows no activated adapters and refuses the command's "
                f"{ACTIVATED}; its pull request 19710 has it, for the projections q, k and v"
            )
        command = exporting.export_vllm(named, folder, where, dtype, tokenizer)
        found = replace(found, command=command)
    return found


def write_set(
    named: Mapping[str, Composition],
    base: Base,
    folder: Path,
    base_type: str | None = None,
    adapter_type: str | None = None,
    *,
    otherwise: str = "f16",
    fused: bool = True,
    merged: bool = False,
    gguf: Path | str | None = None,
    linked: bool = False,
    vectors: bool = False,
    compactly: bool = False,
    told: Callable[[str], None] = lambda line: None,
) -> Written:
    """Write a set of files for llama.cpp; options as for `onepass.export.export_gguf`.

    Without a `base_type`, a base that is a GGUF file is taken as it is, and any other is converted
    to the type `otherwise`.
    """
    if gguf is not None and base_type is not None:
        raise OnepassError(
            f"the base is converted to {base_type}, or {gguf} is taken as it is; leave out one"
        )
    if gguf is None and base_type is None and not merged and base.file_digest is not None:
        gguf = find_gguf(Path(base.name))
    if linked and gguf is None:
        raise OnepassError("a set can only refer to a GGUF file (--base); a converted base is new")
    manifest = exporting.export_gguf(
        named, base, folder, base_type or otherwise, adapter_type, own=gguf, linked=linked,
        fused=fused, merged=merged, vectors=vectors, compactly=compactly, told=told,
    )  # fmt: skip
    passes = next(iter(named.values())).passes
    found = manifest.base
    remarks = trained_elsewhere(named, found.sha256, gguf) if gguf else rounding(named, found.type)
    return Written(folder, base_path(base.name), passes, manifest, remarks=remarks)


def compositions_of(
    several: Mapping[str, What],
    base: BaseLike | None,
    task: TaskLike | None = None,
    tasks: TasksLike = None,
    gguf: Path | str | None = None,
) -> tuple[dict[str, Composition], Base]:
    """All as compositions, and the one base they are for, in float32 on the CPU.

    gguf: a file of that base, which is it where the one they name is not to be had.
    """
    named: dict[str, Composition] = {}
    for name, each in several.items():
        # A sum in float32 is rounded once only, when it is saved.
        machine = {"device": "cpu", "dtype": "float32"}
        try:
            named[name], base = as_composition(each, base, task, tasks, **machine)
        except BaseNotFound:
            if gguf is None:
                raise
            named[name], base = as_composition(each, Path(gguf), task, tasks, **machine)
    if not isinstance(base, Base):
        raise OnepassError("nothing to export; give at least one composition or adapter")
    return named, base


def named_by_folder(whats: Sequence[str]) -> dict[str, str]:
    """Folders, each by the name that a device or a server will call it by: its last part."""
    found: dict[str, str] = {}
    for what in whats:
        name = Path(what).resolve().name
        if name in found:
            raise OnepassError(
                f"two compositions are in folders called {name!r}; rename one, since a device "
                "calls them by these names"
            )
        found[name] = what
    return found


def base_path(name: str) -> str:
    """The base as another program finds it, from any folder: a path, or else a hub name."""
    folder = TINY if name == "tiny" else Path(name).expanduser()
    return str(folder.resolve()) if folder.exists() else name


def trained_elsewhere(
    compositions: Mapping[str, Composition], digest: str, gguf: Path | str
) -> list[str]:
    """Remarks on calibrations that were trained on other numbers than those of this GGUF file."""
    found = []
    for name, composition in compositions.items():
        trained = composition.card.get("base_sha256")
        learned = any(pass_.calibration for pass_ in composition.passes)
        if learned and trained != digest:
            on = f"another file (SHA-256 {trained[:16]}...)" if trained else "other numbers"
            found.append(
                f"{name} was calibrated on {on} than {Path(gguf).name} holds; calibrated with "
                f"--model {gguf} it is likely to be better"
            )
    return found


def rounding(compositions: Mapping[str, Composition], base_type: str) -> list[str]:
    """Remarks on calibrations that were trained on another rounding of the base than they get."""
    found = []
    for name, composition in compositions.items():
        trained = composition.card.get("base_quantization")
        rounded = base_type if base_type.startswith("q") else "none"
        if trained is not None and trained != rounded:
            found.append(
                f"{name} was calibrated with --base-quantization {trained}; for a base in "
                f"{base_type}, {rounded} is likely to be better"
            )
    return found
