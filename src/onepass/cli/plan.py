"""The table of `onepass bench --plan`: what would be run, and roughly what it would cost."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onepass.cli.show import note, print_table

if TYPE_CHECKING:
    from onepass.comparison.bench import Plan
    from onepass.comparison.recipe import Recipe

HEADER = (
    "method", "cells", "trainings", "examples seen", "tokens trained on", "read", "written",
    "time", "disk, MB",
)  # fmt: skip


def print_plan(
    recipe: "Recipe",
    folder: Path,
    plan: "Plan",
    only: Sequence[str],
    flops: float | None,
    workers: int,
) -> None:
    """Print the cells of a recipe that are left, by method, and what the figures rest on.

    only: what the `plan` was made with.
    """
    from onepass.comparison.estimate import estimate

    found = estimate(plan, recipe, folder, only, flops)
    rows = []
    for row in found.rows:
        counts = (row.examples, row.trained, row.read, row.written)
        rows.append(
            [
                row.name, str(row.cells), str(row.trainings), *(f"{n:,.0f}" for n in counts),
                _time(found.seconds(row)), f"{row.disk / 1e6:.1f}",
            ]
        )  # fmt: skip
    seconds = sum(map(found.seconds, found.rows))
    if rows:
        totals = [
            sum(getattr(row, name) for row in found.rows)
            for name in ("examples", "trained", "read", "written")
        ]
        rows.append(
            [
                "all", str(sum(row.cells for row in found.rows)),
                str(sum(row.trainings for row in found.rows)), *(f"{n:,.0f}" for n in totals),
                _time(seconds), f"{sum(row.disk for row in found.rows) / 1e6:.1f}",
            ]
        )  # fmt: skip
        print_table(HEADER, rows, numbers=True)
    note(
        f"{recipe.name}: {plan.cells} cells, {plan.done} of them done; {len(plan.jobs)} jobs left, "
        f"about {_time(seconds / workers)} with {workers} "
        f"{'worker' if workers == 1 else 'workers'}"
    )
    if plan.changed:
        note(plan.changed)
    if found.state_bytes:
        note(
            f"while it trains: up to {found.state_bytes / 1e6:,.0f} MB of state per worker, in "
            f"{folder}"
        )
    note(
        f"This is an estimate, from {found.parameters:,} parameters, the tokens of a sample and "
        f"{found.rate / 1e9:,.1f} GFLOP/s per worker: {found.basis}. Trainings that stop early "
        "take less, and searches (lorahub, dam, ziplora) are not counted."
    )


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s"
