"""What `export --format gguf` and `pack` share: compositions, their base, and the report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onepass.cli.show import note, print_table

if TYPE_CHECKING:
    from onepass.export.manifest import Manifest

BaseType = Annotated[
    str | None,
    typer.Option(
        help="Convert the base to f32, f16, q8_0 or q4_0 (8 and 4 bits); by default only a base "
        "that is no GGUF file is."
    ),
]
OwnBase = Annotated[
    Path | None,
    typer.Option(
        "--base",
        metavar="FILE.gguf",
        help="A GGUF file of the base, to take as it is; by default the one that --model names, or "
        "the adapters do.",
    ),
]
Linked = Annotated[
    bool,
    typer.Option(
        "--link",
        help="Leave the GGUF file where it is, for several sets to share; by default it is copied.",
    ),
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


def show_set(folder: Path, manifest: "Manifest") -> None:
    """Print what is in a set, and what each composition adds to it."""
    base = manifest.base
    outside = ", not in the set" if base.linked else ""
    rows = [(base.path, f"base, {base.type}{outside}", f"{base.bytes:,}")]
    for adapter in manifest.adapters:
        kind = ", activated" if adapter.invocation else ""
        what = f"{adapter.role}, rank {adapter.rank}{kind}"
        rows.append((adapter.path, what, f"{adapter.bytes:,}"))
    rows += [
        (e.fused.path, "fused", f"{e.fused.bytes:,}") for e in manifest.compositions if e.fused
    ]
    print_table(("file", "what", "bytes"), rows, numbers=True)
    total = sum(file.bytes for file in manifest.files())
    note(f"{folder}: {total:,} bytes on the device")
    for entry in manifest.compositions:
        share = 100 * entry.marginal_bytes / total
        note(f"{entry.name}: adds {entry.marginal_bytes:,} bytes ({share:.2f} % of the set)")
        if entry.activated:
            task = entry.passes[0].task
            note(
                f"{entry.name}: activated, acts from {task.activate!r} in {task.message('TEXT')!r}"
            )
