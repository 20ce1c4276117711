"""Where things are in the page's plots, in SVG units; the template draws them.

Plots are drawn here and not by matplotlib so that they follow the page's colours, dark and light,
and because matplotlib is optional. The y axis points down, as in SVG.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from onepass.comparison.table import Table, Value

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 640.0, 46.0, 150.0, 14.0, 44.0
LINE = 14.0
"""The height of a label."""
_LEAST = 0.002  # MB: where methods that store nothing are drawn
_LETTER = 6.8  # the width of a label's letter, on average
_STEPS = (1, 2, 5, 10, 20)


@dataclass(frozen=True)
class Mark:
    """A point with its label; `series` numbers its colour, `hollow` if it takes several passes."""

    x: float
    y: float
    label_x: float
    label_y: float
    name: str
    title: str
    series: int = 0
    hollow: bool = False


@dataclass(frozen=True)
class Line:
    """A curve with its label at the right end; `band` is the polygon of its interval."""

    points: str
    band: str
    end_x: float
    end_y: float
    label_x: float
    label_y: float
    name: str
    title: str
    series: int
    dashed: bool


@dataclass(frozen=True)
class Plot:
    title: str
    x_title: str
    y_title: str
    height: float
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    marks: Sequence[Mark] = field(default_factory=list)
    lines: Sequence[Line] = field(default_factory=list)


@dataclass(frozen=True)
class Point:
    """A method: its mean with the 95 % interval in percent, its passes, and MB stored."""

    name: str
    mean: float
    low: float
    high: float
    passes: int
    stored: float


def points_of(overview: Table) -> list[Point]:
    """The methods of `tables.overview` that have a mean."""
    found = []
    for name, mean, *numbers in overview.rows:
        low, high, passes, stored = (_number(value) for value in numbers[:4])
        if mean is not None:
            found.append(Point(str(name), _number(mean), low, high, int(passes), stored / 2**20))
    return found


def storage_plot(points: Sequence[Point], metric: str) -> Plot:
    """Quality against the MB that one more combination stores, on a logarithmic axis."""
    height = _height(len(points))
    y_of, y_ticks = _y_axis([point.mean for point in points], height)
    largest = max(max(point.stored for point in points), 10 * _LEAST)
    span = math.log(largest / _LEAST)
    wide = WIDTH - LEFT - RIGHT

    def place(stored: float) -> float:
        return LEFT + 12 + (wide - 12) * math.log(max(stored, _LEAST) / _LEAST) / span

    ticks = [(place(tick), f"{tick:g}") for tick in (0.01, 0.1, 1, 10, 100, 1000) if tick < largest]
    places = {point.name: (place(point.stored), y_of(point.mean)) for point in points}
    marks = _marks(points, places, beside(places, height))
    x_title = "stored for one more combination, MB"
    x_ticks = [(place(0), "none"), *ticks]
    return Plot("Quality against stored bytes", x_title, metric, height, x_ticks, y_ticks, marks)


def passes_plot(points: Sequence[Point], metric: str) -> Plot:
    """Quality against the passes that one answer takes."""
    counts = sorted({point.passes for point in points})
    height = _height(len(points))
    y_of, y_ticks = _y_axis([point.mean for point in points], height)
    room = (WIDTH - LEFT - RIGHT / 2) / len(counts)
    xs = {count: LEFT + room * (number + 0.25) for number, count in enumerate(counts)}
    places = {point.name: (xs[point.passes], y_of(point.mean)) for point in points}
    labels: dict[str, tuple[float, float]] = {}
    for count in counts:
        column = {point.name: y_of(point.mean) for point in points if point.passes == count}
        labels |= {name: (xs[count] + 20, y) for name, y in spread(column, height).items()}
    marks = _marks(points, places, labels)
    x_ticks = [(xs[count], str(count)) for count in counts]
    x_title = "passes of the model for one answer"
    return Plot("Quality against passes", x_title, metric, height, x_ticks, y_ticks, marks)


def _marks(
    points: Sequence[Point],
    places: Mapping[str, tuple[float, float]],
    labels: Mapping[str, tuple[float, float]],
) -> list[Mark]:
    return [
        Mark(
            *places[point.name],
            *labels[point.name],
            point.name,
            f"{point.name}: {point.mean:.1f} ({point.low:.1f} to {point.high:.1f}), "
            f"{point.passes} pass{'es' if point.passes > 1 else ''}, {point.stored:.3g} MB",
            # LC and its kin in a colour of their own.
            1 if {"lc", "lc++"} & {*point.name.split("-")} else 0,
            point.passes > 1,
        )
        for point in points
    ]


def curve_plots(curves: Table) -> list[Plot]:
    """A plot per task of `tables.curves`; a method that does not learn is a dashed line across."""
    panels: dict[str, dict[str, list[Sequence[Value]]]] = {}
    for row in curves.rows:
        panels.setdefault(str(row[0]), {}).setdefault(str(row[1]), []).append(row)
    budgets = sorted({_number(row[2]) for row in curves.rows} - {0})
    series = {name: n for n, name in enumerate(dict.fromkeys(str(row[1]) for row in curves.rows))}
    return [_curves(task, lines, budgets, series) for task, lines in panels.items()]


def _curves(
    task: str,
    lines: dict[str, list[Sequence[Value]]],
    budgets: Sequence[float],
    series: dict[str, int],
) -> Plot:
    metric = str(next(iter(lines.values()))[0][3])
    rows = [row for found in lines.values() for row in found]
    height = _height(len(lines))
    y_of, y_ticks = _y_axis([_number(row[n]) for row in rows for n in (5, 6)], height)
    low, high = math.log(budgets[0]), math.log(budgets[-1])
    inner = WIDTH - LEFT - RIGHT - 24

    def x_of(examples: float) -> float:
        share = (math.log(examples) - low) / (high - low) if high > low else 0.5
        return LEFT + 12 + inner * share

    ends = {name: y_of(_number(found[-1][4])) for name, found in lines.items()}
    labels = spread(ends, height)
    right = WIDTH - RIGHT
    drawn = []
    for name, found in lines.items():
        flat = not found[0][2]
        bounds = [_number(row[place]) for row in (found[0], found[-1]) for place in (4, 5, 6)]
        if flat:
            xs, ys = [LEFT, right], [y_of(bounds[0])] * 2
            lows = highs = []
        else:
            xs = [x_of(_number(row[2])) for row in found]
            ys, lows, highs = ([y_of(_number(row[n])) for row in found] for n in (4, 5, 6))
        band = [*zip(xs, lows, strict=False), *reversed([*zip(xs, highs, strict=False)])]
        drawn.append(
            Line(
                _polygon(zip(xs, ys, strict=True)),
                _polygon(band),
                xs[-1],
                ys[-1],
                right + 12,
                labels[name],
                name,
                f"{name}: {bounds[3]:.1f} ({bounds[4]:.1f} to {bounds[5]:.1f})",
                series[name],
                flat,
            )
        )
    x_ticks = [(x_of(budget), f"{budget:,.0f}") for budget in budgets]
    return Plot(task, "training examples", f"{metric}, %", height, x_ticks, y_ticks, (), drawn)


def beside(places: dict[str, tuple[float, float]], height: float) -> dict[str, tuple[float, float]]:
    """For each point the (x, y) nearest to its right where a label covers no other, and no point.

    Labels that find no room lie at their point all the same.
    """
    taken = [(x - 6, x + 6, y - 6, y + 6) for x, y in places.values()]
    found = {}
    for name, (x, y) in sorted(places.items(), key=lambda item: item[1][::-1]):
        wide = _LETTER * len(name)
        offsets = sorted(range(-int(y - TOP), int(height - BOTTOM - y) + 1, 2), key=abs) or [0]
        for right, down in ((r, d) for d in offsets for r in (10, 22)):
            box = (x + right, x + right + wide, y + down - LINE / 2, y + down + LINE / 2)
            if not any(_overlap(box, other) for other in taken):
                break
        else:
            right, down = 10, 0
            box = (x + right, x + right + wide, y - LINE / 2, y + LINE / 2)
        taken.append(box)
        found[name] = (x + right, y + down)
    return found


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def spread(wanted: dict[str, float], height: float) -> dict[str, float]:
    """For each label the y nearest to the one wanted at which no two are closer than a line."""
    order = sorted(wanted, key=wanted.__getitem__)
    found: list[float] = []
    for name in order:
        found.append(max(wanted[name], found[-1] + LINE if found else TOP))
    limit = height - BOTTOM
    for place in range(len(found) - 1, -1, -1):
        found[place] = min(found[place], limit)
        limit = found[place] - LINE
    return dict(zip(order, found, strict=True))


def _height(labels: int) -> float:
    return max(320.0, TOP + BOTTOM + LINE * (labels + 1))


def _y_axis(values: Sequence[float], height: float) -> tuple["_Scale", list[tuple[float, str]]]:
    """A scale over all values, and its ticks."""
    low, high = min(values), max(values)
    step = next(s for s in _STEPS if (high - low) / s <= 6) if high - low <= 120 else 50
    first, last = math.floor(low / step), math.ceil(high / step)
    last = max(last, first + 1)
    scale = _Scale(first * step, last * step, height)
    return scale, [(scale(n * step), str(n * step)) for n in range(first, last + 1)]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    height: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.height - BOTTOM - share * (self.height - BOTTOM - TOP)


def _polygon(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _number(value: Value) -> float:
    return float(value or 0)
