"""Heat maps of layers by projections, as a PNG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onepass.core.files import atomic_file
from onepass.core.optional import optional


@dataclass(frozen=True)
class Panel:
    """One map: a value, from `low` to `high`, by (layer, projection)."""

    title: str
    values: Mapping[tuple[str, str], float]
    low: float
    high: float


def draw(rows: Sequence[Sequence[Panel]], path: Path) -> None:
    """Draw rows of panels into a PNG file; cells without a value stay white."""
    new_figure = optional("matplotlib.figure", "plot", "a heat map").Figure
    figure = new_figure(figsize=(6.0 * len(rows[0]), 4.0 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels):
            _fill(axes[row][column], panel, figure)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _fill(axis: Any, panel: Panel, figure: Any) -> None:
    layers = list(dict.fromkeys(layer for layer, _ in panel.values))
    columns = list(dict.fromkeys(name for _, name in panel.values))
    grid = np.full((len(layers), len(columns)), np.nan)
    for (layer, name), value in panel.values.items():
        grid[layers.index(layer), columns.index(name)] = value
    colours = "RdBu_r" if panel.low < 0 else "viridis"
    image = axis.imshow(grid, vmin=panel.low, vmax=panel.high, cmap=colours, aspect="auto")
    axis.set_title(panel.title, fontsize=9)
    axis.set_xticks(range(len(columns)), columns, rotation=45, ha="right", fontsize=7)
    axis.set_yticks(range(len(layers)), layers, fontsize=7)
    axis.set_ylabel("layer")
    figure.colorbar(image, ax=axis)
