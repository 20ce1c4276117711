"""The plot of quality against what one more combination stores, drawn without a display."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onepass.comparison.table import Table
from onepass.core.files import atomic_file
from onepass.core.optional import optional

_LEAST = 0.002  # MB: where methods that store nothing are drawn
_NEAR = 4.0  # points whose storage differs by a smaller factor share their labels
_LINE = 0.042  # the height of a label, as a share of the plot's


@dataclass(frozen=True)
class Point:
    """A method's place in the plot: `stored` in MB, `quality` in percent."""

    stored: float
    quality: float
    name: str
    passes: int


def draw_storage(comparison: Table, costs: Table, path: Path) -> None:
    """Write a PNG with a point per method, from the rows of `tables.comparison` and `tables.costs`.

    Methods of more than one pass are drawn hollow.
    """
    new_figure = optional("matplotlib.figure", "plot", "the plot of the report").Figure
    headline = [column.name for column in comparison.columns].index("low") - 1
    cost = {str(row[0]): row for row in costs.rows}
    points = [
        Point(
            max(float(cost[str(row[0])][3] or 0), _LEAST),
            float(row[headline] or 0),
            str(row[0]),
            int(cost[str(row[0])][1] or 1),
        )
        for row in comparison.rows
    ]
    low, high = min(p.quality for p in points), max(p.quality for p in points)
    height = max(high - low, 1.0) * 1.15
    figure = new_figure(figsize=(7.2, 4.6), layout="constrained")
    axis = figure.subplots()
    for point in points:
        calibrated = {"lc", "lc++"} & {*point.name.split("-")}
        colour = "C3" if point.passes > 1 else "C1" if calibrated else "C0"
        fill = "none" if point.passes > 1 else "full"
        axis.plot(point.stored, point.quality, "o", color=colour, fillstyle=fill)
    for block in _blocks(points, height * _LINE):
        axis.annotate(
            "\n".join(point.name for point in reversed(block)),
            (max(point.stored for point in block), block[0].quality - height * _LINE / 2),
            xytext=(7, 0),
            textcoords="offset points",
            fontsize=8,
            va="bottom",
            linespacing=1.1,
        )
    axis.set(xscale="log", ylim=(low - height * 0.05, high + height * 0.12))
    axis.set(xlabel="stored for one more combination, MB")
    axis.set_ylabel(f"{comparison.columns[headline].heading.removeprefix('all: ')}, %")
    ticks = [_LEAST, 0.01, 0.1, 1, 10, 100]
    axis.set_xticks(ticks, ["none", *(f"{tick:g}" for tick in ticks[1:])], minor=False)
    axis.set_xlim(_LEAST / 1.5, max(point.stored for point in points) * 8)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    with atomic_file(path) as temporary:
        # No date or version inside: the same runs give the same file.
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _blocks(points: Sequence[Point], line: float) -> Iterator[list[Point]]:
    """Yield the points whose labels, `line` high, would lie over each other, the lowest first."""
    left = sorted(points, key=lambda point: point.stored)
    while left:
        near = [point for point in left if point.stored < left[0].stored * _NEAR]
        left = left[len(near) :]
        block: list[Point] = []
        for point in sorted(near, key=lambda point: point.quality):
            if block and point.quality > block[0].quality + line * len(block):
                yield block
                block = []
            block.append(point)
        yield block
