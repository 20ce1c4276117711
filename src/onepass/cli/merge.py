"""`onepass merge`: several adapters into one, by arithmetic alone."""

from pathlib import Path
from typing import Annotated, Any

import typer

from onepass.cli.options import SaveAs
from onepass.cli.show import note
from onepass.core.errors import OnepassError


def merge(
    adapters: Annotated[
        list[str],
        typer.Argument(metavar="ADAPTER...", help="Folders in PEFT's LoRA format, or hub names."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    method: Annotated[
        str, typer.Option(help="How to merge; `onepass ls merges` lists the ways.")
    ] = "linear",
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="One per adapter: a number, or numbers by part of the module's path, such as "
            "q_proj=1,layers.3=0.5,*=0.2. By default equal.",
            show_default=False,
        ),
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Of the result; by default what it needs.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="An option of the method: name=value.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of methods that drop at random.")] = 0,
    pico: Annotated[
        bool,
        typer.Option("--pico", help="First scale down output directions that all adapters use."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also for adapters of two bases, or of no common module."),
    ] = False,
    save_as: SaveAs = "float16",
) -> None:
    """Merge adapters of one base into one, without loading the base.

    Ranks, alphas and target modules may differ. The result is a PEFT adapter with scaling 1; its
    card.json says how it was made, and how far a forced rank is from the exact result.

    \b
    Examples:
      onepass merge SUMMARIZE_ADAPTER SPANISH_ADAPTER --out merged
      onepass merge A B C --method ties --option density=0.2 --rank 16
          --out merged
      onepass merge A B --weights 1 q_proj=0.5,*=0.25 --out merged
    """
    given = [_weight(text) for text in weights] if weights else None
    options: dict[str, Any] = {}
    for name, value in map(_option, option or []):
        if name in options:
            raise OnepassError(f"--option {name} is given twice; give it once")
        options[name] = value

    from onepass.adapters.adapter import ADAPTER_FILES
    from onepass.adapters.merging import MERGES
    from onepass.adapters.storage import check_replaceable
    from onepass.api.make import merge as merge_adapters
    from onepass.api.outputs import check_writable
    from onepass.api.resolve import save_dtype

    MERGES.get(method).check_options(options)  # before another keyword of `merge` could slip in
    save_dtype(save_as)
    check_writable(out)
    check_replaceable(out, ADAPTER_FILES)
    merged = merge_adapters(
        adapters, method, given, rank=rank, seed=seed, force=force, pico=pico, **options
    )
    merged.save(out, save_as)
    ranks = sorted({lora.rank for lora in merged.modules.values()})
    spread = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    error = merged.card["truncation_error"]
    lost = f"; the rank costs {100 * error:.1f} % of its norm" if error else ""
    note(f"{out}: {len(merged.modules)} modules, rank {spread}{lost}")


def _weight(text: str) -> float | dict[str, float]:
    if "=" not in text:
        return _number(text, text)
    parts = [part.partition("=") for part in text.split(",")]
    return {name.strip(): _number(value, text) for name, _, value in parts}


def _number(text: str, whole: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise OnepassError(
            f"--weights {whole!r}: {text!r} is no number; write 0.5, or q_proj=0.5,*=1"
        ) from error


def _option(text: str) -> tuple[str, Any]:
    import yaml

    name, equals, value = text.partition("=")
    if not equals:
        raise OnepassError(f"--option {text!r}: write name=value, such as density=0.2")
    try:
        return name.strip().replace("-", "_"), yaml.safe_load(value)
    except (yaml.YAMLError, RecursionError) as error:
        raise OnepassError(f"--option {text!r}: {value!r} is no value") from error
