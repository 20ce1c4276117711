"""What `export --format gguf` and `pack` share: compositions, their base, and the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onepass.cli.show import note, print_table
from onepass.core.errors import OnepassError

if TYPE_CHECKING:
    from onepass.adapters.composition import Composition
    from onepass.export.manifest import Manifest
    from onepass.model.load import Base

BaseType = Annotated[
    str, typer.Option(help="Of a GGUF base: f32, f16, q8_0 or q4_0 (8 and 4 bits).")
]
AdapterType = Annotated[
    str | None,
    typer.Option(
        help="Of GGUF adapters: f32, f16 or q8_0; by default as the base, 8 bits at least."
    ),
]
Merged = Annotated[
    bool,
    typer.Option(
        "--merged",
        help="Sum the composition into the base of a set: fastest, and the set can do only that.",
    ),
]

NO_ADAPTERS = "says nothing about --merged, which writes no adapters"


def named_compositions(folders: Sequence[Path]) -> dict[str, "Composition"]:
    """The compositions in these folders, each by its folder's name."""
    from onepass.adapters.composition import load_composition

    found: dict[str, Composition] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in found:
            raise OnepassError(
                f"two compositions are in folders called {name!r}; rename one, "
                "since a device calls them by these names"
            )
        found[name] = load_composition(folder)
    return found


def base_of(compositions: Mapping[str, "Composition"], model: str | None) -> "Base":
    """The base the compositions were made for, in float32, or `model` in its place."""
    from onepass.model.load import load_base

    names = {composition.base.name for composition in compositions.values()}
    if len(names) > 1:
        raise OnepassError(
            f"the compositions are for different bases: {', '.join(sorted(names))}; "
            "one set holds one base"
        )
    return load_base(model or names.pop(), "cpu", "float32")


def base_path(model: str) -> str:
    """The base as another program finds it, from any folder: a path, or else a hub name."""
    from onepass.model.assets import TINY

    folder = TINY if model == "tiny" else Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def note_rounding(compositions: Mapping[str, "Composition"], base_type: str) -> None:
    """Remark on a calibration that was trained on another rounding of the base than it gets."""
    for name, composition in compositions.items():
        trained = composition.card.get("base_quantization") or "none"
        rounded = base_type if base_type.startswith("q") else "none"
        if trained != rounded:
            note(
                f"note: {name} was calibrated with --base-quantization {trained}; "
                f"for a base in {base_type}, {rounded} is likely to be better"
            )


def show_set(folder: Path, manifest: "Manifest") -> None:
    """Print what is in a set, and what each composition adds to it."""
    base = manifest.base
    rows = [(base.path, f"base, {base.type}", f"{base.bytes:,}")]
    rows += [(a.path, f"{a.role}, rank {a.rank}", f"{a.bytes:,}") for a in manifest.adapters]
    rows += [
        (e.fused.path, "fused", f"{e.fused.bytes:,}") for e in manifest.compositions if e.fused
    ]
    print_table(("file", "what", "bytes"), rows, numbers=True)
    total = sum(file.bytes for file in manifest.files())
    note(f"{folder}: {total:,} bytes on the device")
    for entry in manifest.compositions:
        share = 100 * entry.marginal_bytes / total
        note(f"{entry.name}: adds {entry.marginal_bytes:,} bytes ({share:.2f} % of the set)")
