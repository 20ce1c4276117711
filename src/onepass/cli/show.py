"""What commands print: results on standard output, remarks and progress on standard error."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from onepass.adapters.composition import Cost
    from onepass.evaluate.stats import Interval
    from onepass.serve.endpoint import Endpoint, Spent

Cells = Sequence[str]


def print_table(
    header: Cells, rows: Iterable[Cells], numbers: bool = False, err: bool = False
) -> None:
    """A table on a terminal; in a pipe one line per row, its columns separated by tabs.

    `numbers`: all columns but the first are numbers, set flush right. A pipe gets a header only
    with numbers, which are not clear without. `err`: on standard error, as a remark.
    """
    if not (sys.stderr if err else sys.stdout).isatty():
        for row in [header, *rows] if numbers else rows:
            typer.echo("\t".join(row), err=err)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, title in enumerate(header):
        table.add_column(title, justify="right" if numbers and index else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(stderr=err).print(table)


def note(message: str) -> None:
    """A remark, on standard error so that it never gets into a result that is piped on."""
    # Text, not markup: a message may hold [brackets]; soft wrap keeps paths in one piece.
    Console(stderr=True).print(Text(message), soft_wrap=True, highlight=False)


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def score_row(title: str, interval: "Interval") -> Cells:
    """A metric's mean and 95 % interval, in percent, and over how many examples."""
    spread = f"{percent(interval.low)} to {percent(interval.high)}"
    return title, percent(interval.mean), spread, str(interval.count)


SCORE_HEADER = ("metric", "%", "95 % interval", "examples")


def describe_cost(cost: "Cost") -> str:
    passes = "1 pass" if cost.passes == 1 else f"{cost.passes} passes"
    return f"{passes}, {cost.extra_parameters:,} extra parameters, {cost.extra_bytes:,} extra bytes"


def describe_spent(spent: "Spent", endpoint: "Endpoint") -> str:
    cost = spent.cost(endpoint)
    priced = "" if cost is None else f", which cost {cost:.4g}"
    read, written = spent.prompt_tokens, spent.completion_tokens
    return f"{read:,} tokens read and {written:,} written{priced}"
