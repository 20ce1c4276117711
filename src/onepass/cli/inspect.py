"""`onepass inspect`: what adapters are, and how well they would merge."""

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from onepass.api.outputs import check_writable
from onepass.cli.show import note, print_table
from onepass.core.optional import optional

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from onepass.adapters.adapter import Adapter
    from onepass.adapters.inspect import Facts, Meeting

MOST_PAIRS = 15  # in a heat map, where more would be too small to read or too large to open
FIGURES = ("cosine", "outputs", "inputs", "by_chance", "conflict")


def inspect(
    adapters: Annotated[
        list[str],
        typer.Argument(metavar="ADAPTER...", help="Folders in PEFT's LoRA format, or hub names."),
    ],
    heat_map: Annotated[
        Path | None,
        typer.Option(help="Also draw where two or more adapters meet, into this PNG file."),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer.")] = False,
) -> None:
    """Tell ranks, targets and norms of adapters, and where several get into each other's way.

    For each pair: the cosine of their changes; how much of the directions that they write to
    (outputs) and read from (inputs) coincide, and would by chance; the share of entries with
    opposite signs (conflict; 0.50 for unrelated ones). Then what that means for a merge.

    \b
    Examples:
      onepass inspect ADAPTER
      onepass inspect SUMMARIZE_ADAPTER SPANISH_ADAPTER --layers
      onepass inspect A B C --heat-map meeting.png
    """
    if heat_map is not None:
        check_writable(heat_map, folder=False)
        optional("matplotlib", "plot", "--heat-map")

    from onepass.api.use import inspect as inspect_adapters

    found = inspect_adapters(adapters)
    _print_facts(found.facts, layers)
    for (one, other, meetings), hints in zip(found.pairs, found.hints, strict=True):
        typer.echo(f"\n{one.name} and {other.name}")
        if meetings:
            _print_meetings(meetings, layers)
        for hint in hints:
            typer.echo(f"  {hint}")
    if heat_map is not None:
        _draw(found.pairs, heat_map)


def _print_facts(known: "Sequence[Facts]", layers: bool) -> None:
    rows = []
    for each in known:
        ranks = f"{each.ranks[0]}" if len(each.ranks) == 1 else f"{each.ranks[0]}-{each.ranks[-1]}"
        rows.append(
            [each.name, each.base or "unknown", ranks, f"{each.parameters:,}",
             f"{each.total_norm:.3f}", " ".join(each.projections)]
        )  # fmt: skip
    print_table(["adapter", "base", "rank", "parameters", "norm", "changes"], rows)
    for each in known:
        if each.template == "plain":
            note(f"{each.name}: trained without a chat template; a blank line follows a prompt")
        if each.invocation:
            ids = ", ".join(map(str, each.invocation))
            note(f"{each.name}: activated, acts from the last token ids {ids} of a prompt on")
    if layers:
        for each in known:
            typer.echo(f"\n{each.name}, norm by module")
            print_table(["module", "norm"], [[m, f"{v:.4f}"] for m, v in each.norms.items()], True)


def _print_meetings(meetings: "Mapping[str, Meeting]", layers: bool) -> None:
    from onepass.adapters.adapter import projection

    groups: dict[str, list[Meeting]] = {}
    for module, meeting in meetings.items():
        groups.setdefault(module if layers else projection(module), []).append(meeting)
    groups["all"] = list(meetings.values())
    rows = [
        [name, *(f"{fmean(getattr(each, figure) for each in group):.2f}" for figure in FIGURES)]
        for name, group in groups.items()
    ]
    print_table(["", *(figure.replace("_", " ") for figure in FIGURES)], rows, numbers=True)


def _draw(met: "Sequence[tuple[Adapter, Adapter, Mapping[str, Meeting]]]", path: Path) -> None:
    """One row of two maps per pair: layers by projections, for the cosine and the outputs."""
    from onepass.adapters.inspect import by_layer
    from onepass.api.heat_map import Panel, draw

    panels = [
        [
            Panel(f"{one.name} and {other.name}: {title}", by_layer(meetings, figure), *bounds)
            for figure, title, bounds in (
                ("cosine", "cosine", (-1.0, 1.0)),
                ("outputs", "shared outputs", (0.0, 1.0)),
            )
        ]
        for one, other, meetings in met
        if meetings
    ]
    if len(panels) > MOST_PAIRS:
        note(f"the heat map shows the first {MOST_PAIRS} of {len(panels)} pairs")
        panels = panels[:MOST_PAIRS]
    if not panels:
        note("no heat map: that takes two adapters that change the same modules")
        return
    draw(panels, path)
    note(f"{path}: the heat map")
