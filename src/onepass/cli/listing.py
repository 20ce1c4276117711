"""Examples one by one on a terminal: input, target, and what one or two methods made of it."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onepass.comparison.examples import ExampleRow
from onepass.comparison.listing import Listing, heading, reasons_text, scores_text, shown_text

_LABEL = 8  # columns
_DIM = "dim"


def print_listing(listing: Listing) -> None:
    """Print a listing, in the width of the terminal; outputs of two methods stand side by side."""
    console = Console()
    console.print(Text(listing.summary), highlight=False)
    seeds, number = listing.seeds(), 0
    for title, rows in listing.parts:
        if title:
            console.print(Text(f"\n{title}", style="bold underline"))
        for row in rows:
            number += 1
            console.print(Text(f"\n{heading(row, number, seeds)}", style="bold"))
            for part in (_example(row), _answers(row, listing)):
                console.print(part, highlight=False)


def _example(row: ExampleRow) -> Table:
    grid = _grid(1)
    grid.add_row(Text("input", _DIM), _text(row.input))
    grid.add_row(Text("target", _DIM), _text(row.targets[0]))
    return grid


def _answers(row: ExampleRow, listing: Listing) -> Table:
    grid = _grid(len(listing.methods))
    answers = [row.answers[name] for name in listing.methods]
    if len(listing.methods) > 1:
        grid.add_row("", *(Text(name, "bold") for name in listing.methods))
    grid.add_row(Text("output", _DIM), *(_text(answer.output) for answer in answers))
    grid.add_row(
        Text("scores", _DIM), *(_text(scores_text(a, listing.metrics[row.task])) for a in answers)
    )
    if any(answer.reasons for answer in answers):
        grid.add_row(Text("verifier", _DIM), *(_text(reasons_text(answer)) for answer in answers))
    return grid


def _grid(columns: int) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(width=_LABEL, no_wrap=True)
    for _ in range(columns):
        grid.add_column(ratio=1, overflow="fold")
    return grid


def _text(text: str) -> Text:
    return Text(shown_text(text) or "(empty)")
