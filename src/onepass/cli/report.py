"""`onepass report`: the tables of finished runs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from onepass.api.outputs import check_writable
from onepass.cli.options import Plugins

if TYPE_CHECKING:
    from onepass.comparison.table import Table


_WIDEST = 400


class Format(StrEnum):
    table = "table"
    markdown = "markdown"
    csv = "csv"
    table1 = "table1"
    table2 = "table2"


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `onepass bench` made.", show_default=False)
    ],
    format: Annotated[
        Format,
        typer.Option(help="csv: every task; table1, table2: CSV in the layouts of the paper."),
    ] = Format.table,
    reference: Annotated[
        Path | None,
        typer.Option(help="Published figures to compare with.", show_default="the paper's table 1"),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Other runs, to compare with method by method.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write report, tables and plots into this folder.")
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Print the tables of finished runs."""
    from onepass.comparison.report import make_report, report_markdown, write_report
    from onepass.comparison.table import to_csv

    if out is not None:
        check_writable(out)
    found = make_report(folder, reference, against)
    if out is not None:
        for path in write_report(found, out):
            typer.echo(f"wrote {path}", err=True)
    match format:
        case Format.table:
            console = Console()
            console.print(f"{found.title}: {found.setting}", markup=False, highlight=False)
            for table in found.shown():
                drawn = _rich(table)
                # Lines that a narrow terminal folds can be read; numbers cut to "9…" cannot.
                room = console.options.update(max_width=_WIDEST)
                needed = console.measure(drawn, options=room).maximum
                Console(width=max(console.width, needed)).print(drawn)
                console.print(f"{table.note}\n", markup=False, highlight=False)
            console.print(found.agreement_text(), markup=False)
            for remark in filter(None, (found.missing, found.changed)):
                console.print(remark, style="yellow", markup=False)
        case Format.markdown:
            typer.echo(report_markdown(found))
        case Format.csv:
            typer.echo(to_csv(found.per_task), nl=False)
        case Format.table1:
            typer.echo(to_csv(found.comparison), nl=False)
        case Format.table2:
            typer.echo(to_csv(found.costs), nl=False)


def _rich(table: "Table") -> RichTable:
    drawn = RichTable(title=table.title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for place, column in enumerate(table.columns):
        # A column's words may stand below each other: headings are longer than numbers.
        heading = column.heading.replace(": ", ":\n").replace(" + ", "\n+ ").replace(", ", ",\n")
        drawn.add_column(
            heading, justify="right" if table.is_number(place) else "left", no_wrap=place == 0
        )
    for row in table.texts():
        drawn.add_row(*row)
    return drawn
