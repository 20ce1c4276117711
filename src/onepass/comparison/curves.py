"""The plot of quality against the number of examples, drawn without a display."""

from math import ceil
from pathlib import Path
from typing import Any

from onepass.comparison.plotting import figure
from onepass.comparison.table import Table, Value

Point = tuple[float, float, float, float]
"""Examples, mean, low, high."""


def draw_curves(table: Table, path: Path) -> None:
    """Draw the rows of `tables.curves`: a panel per task, a line per method.

    The band around a line is from the lowest to the highest of several seeds; of one seed it is the
    95 % interval. A method that does not learn has no number of examples; it is a dashed line
    across. The format (png, svg, pdf) is that of the path's ending.
    """
    panels = _panels(table)
    methods = list(dict.fromkeys(method for panel in panels.values() for method in panel))
    colours = {method: f"C{place % 10}" for place, method in enumerate(methods)}
    points = [point for panel in panels.values() for line in panel.values() for point in line]
    bottom = min(min(point[1:]) for point in points)
    top = max(max(point[1:]) for point in points)
    room = 0.03 * (top - bottom) or 1.0
    wide = min(2, len(panels))
    high = ceil(len(panels) / wide)
    with figure(path, 4.6 * wide, 3.2 * high) as drawn:
        axes = drawn.subplots(high, wide, sharex=True, sharey=True, squeeze=False)
        for axis, (task, lines) in zip(axes.flat, panels.items(), strict=False):
            for method, line in lines.items():
                _draw(axis, line, colours[method], method)
            axis.set(title=task, xscale="log", ylim=(bottom - room, top + room))
            axis.grid(alpha=0.3)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        ticks = sorted({point[0] for point in points} - {0})
        axes.flat[0].set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks], minor=False)
        axes.flat[0].minorticks_off()
        metrics = {str(row[3]) for row in table.rows}
        for axis in list(axes.flat)[: len(panels)][-wide:]:  # the lowest panel of each column
            axis.set_xlabel("training examples")  # an overall label would lie under the legend
            axis.tick_params(labelbottom=True)
        drawn.supylabel(f"{metrics.pop() if len(metrics) == 1 else 'score'}, %")
        entries: dict[str, Any] = {}
        for axis in axes.flat:
            handles, labels = axis.get_legend_handles_labels()
            entries |= dict(zip(labels, handles, strict=True))
        drawn.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=6)


def _panels(table: Table) -> dict[str, dict[str, list[Point]]]:
    panels: dict[str, dict[str, list[Point]]] = {}
    for task, method, examples, _, mean, low, high, *seeds in table.rows:
        low, high = seeds or (low, high)
        points = panels.setdefault(str(task), {}).setdefault(str(method), [])
        points.append((_number(examples), _number(mean), _number(low), _number(high)))
    return panels


def _number(value: Value) -> float:
    return float(value or 0)


def _draw(axis: Any, points: list[Point], colour: str, label: str) -> None:
    if points[0][0] == 0:
        axis.axhline(points[0][1], color=colour, linestyle="--", linewidth=1, label=label)
        return
    counts, means, lows, highs = zip(*points, strict=True)
    axis.plot(counts, means, color=colour, marker="o", markersize=3.5, label=label)
    axis.fill_between(counts, lows, highs, color=colour, alpha=0.15, linewidth=0)
