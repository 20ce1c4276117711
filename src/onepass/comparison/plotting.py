"""Figures without a display, and their files: the same runs give the same bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onepass.core.files import atomic_file
from onepass.core.optional import optional

FORMATS = ("png", "svg", "pdf")
_WHAT = "a plot of the report"

# No date or version inside.
_UNDATED = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
_SETTINGS = {
    "svg.hashsalt": "onepass",
    "pdf.fonttype": 42,  # whole fonts, which journals ask for, instead of drawn letters
    "font.size": 9,
}


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """Yield a new figure, its size in inches, and write it; the format is the name's ending."""
    matplotlib = optional("matplotlib", "plot", _WHAT)
    new_figure = optional("matplotlib.figure", "plot", _WHAT).Figure
    form = path.suffix.removeprefix(".")
    with matplotlib.rc_context(_SETTINGS):
        drawn = new_figure(figsize=(width, height), layout="constrained")
        yield drawn
        with atomic_file(path) as temporary:
            drawn.savefig(temporary, format=form, dpi=150, metadata=_UNDATED[form])
