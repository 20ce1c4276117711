"""The plot of quality against what one more combination stores, drawn without a display."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onepass.comparison.plotting import figure
from onepass.comparison.table import Table

_NONE = 5  # methods that store nothing are drawn at so many times less than the least there is
_NEAR = 4.0  # points whose storage differs by a smaller factor share their labels
_LINE = 0.042  # the height of a label, as a share of the plot's


@dataclass(frozen=True)
class Point:
    """A method's place in the plot: `stored` in MB, `quality` in percent."""

    stored: float
    quality: float
    name: str
    passes: int


def draw_storage(overview: Table, path: Path) -> None:
    """Draw a point per method from the rows of `tables.overview`, and the front of those that
    need one pass; methods of more are drawn hollow.

    The format (png, svg, pdf) is that of the path's ending.
    """
    points = points_of(overview)
    least = min((point.stored for point in points if point.stored), default=1.0) / _NONE
    points = [replace(point, stored=point.stored or least) for point in points]
    low, high = min(p.quality for p in points), max(p.quality for p in points)
    height = max(high - low, 1.0) * 1.15
    with figure(path, 7.2, 4.6) as drawn:
        axis = drawn.subplots()
        edge = front(points)
        axis.step(
            [point.stored for point in edge],
            [point.quality for point in edge],
            where="post", color="0.6", linestyle="--", linewidth=1, zorder=0,
            label="best of one pass, by what it stores",
        )  # fmt: skip
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
        axis.set_ylabel(f"{overview.columns[1].heading}, %")
        most = max(point.stored for point in points) * 8
        decades = [10.0**power for power in range(-6, 6) if least < 10.0**power < most]
        axis.set_xticks([least, *decades], ["none", *(f"{tick:g}" for tick in decades)])
        axis.set_xlim(least / 1.5, most)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        drawn.legend(loc="outside upper right", fontsize=8, frameon=False)


def points_of(overview: Table) -> list[Point]:
    """The places of the methods in the plot."""
    return [
        Point(float(stored or 0) / 2**20, float(quality or 0), str(name), int(passes or 1))
        for name, quality, _, _, passes, stored, *_ in overview.rows
    ]


def front(points: Sequence[Point]) -> list[Point]:
    """The methods of one pass that no other one equals with as little storage (Pareto's front).

    From the least storage to the most; of methods in one place the first.
    """
    found: list[Point] = []
    single = [point for point in points if point.passes == 1]
    for point in sorted(single, key=lambda point: (point.stored, -point.quality)):
        if not found or point.quality > found[-1].quality:
            found.append(point)
    return found


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
