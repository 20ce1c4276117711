"""The plot of every task by every method, drawn without a display."""

from pathlib import Path

from onepass.comparison.plotting import figure
from onepass.comparison.table import Table

_WIDE, _HIGH = 0.46, 0.24  # inches of a cell
_LIGHT = 60  # percent from which the colour is so light that black can be read on it


def draw_heat(table: Table, path: Path) -> None:
    """Draw the rows of `tables.by_task`: a cell per method and task; those without runs are white.

    The format (png, svg, pdf) is that of the path's ending.
    """
    tasks = [column.heading for column in table.columns[1:]]
    methods = [str(row[0]) for row in table.rows]
    values = [
        [float("nan") if value is None else float(value) for value in row[1:]] for row in table.rows
    ]
    width, height = 2.6 + _WIDE * len(tasks), 2.1 + _HIGH * len(methods)
    with figure(path, width, height) as drawn:
        axis = drawn.subplots()
        image = axis.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        axis.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(methods)), methods)
        axis.tick_params(length=0)
        for row, line in enumerate(table.rows):
            for place, value in enumerate(line[1:]):
                if isinstance(value, int | float):
                    ink = "black" if value >= _LIGHT else "white"
                    axis.text(
                        place, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=7
                    )
        drawn.colorbar(image, ax=axis, label=f"{table.title.lower()}, %", pad=0.02)
