"""`onepass report`: the tables of finished runs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from onepass.api.outputs import check_writable
from onepass.cli.options import Plugins, refuse
from onepass.core.errors import OnepassError

if TYPE_CHECKING:
    from onepass.comparison.table import Table


_WIDEST = 400
_PIPED = 100  # columns of a table in a pipe or a file
EXAMPLES = "Examples"


class Sort(StrEnum):
    headline = "headline"
    recipe = "recipe"


class Plots(StrEnum):
    png = "png"
    svg = "svg"
    pdf = "pdf"


class Format(StrEnum):
    table = "table"
    markdown = "markdown"
    csv = "csv"
    jsonl = "jsonl"
    table1 = "table1"
    table2 = "table2"


def report(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `onepass bench` made.", show_default=False)
    ],
    format: Annotated[
        Format,
        typer.Option(
            help="csv: every task, or every column of the examples; jsonl: examples; table1, "
            "table2: CSV in the layouts of the paper."
        ),
    ] = Format.table,
    reference: Annotated[
        Path | None,
        typer.Option(help="Published figures to compare with.", show_default="the paper's table 1"),
    ] = None,
    sort: Annotated[
        Sort,
        typer.Option(
            help="Order of methods: best first by the headline, or the recipe's. CSV always has "
            "the recipe's."
        ),
    ] = Sort.headline,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Other runs, to compare with method by method.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write report, tables and plots into this folder.")
    ] = None,
    plots: Annotated[Plots, typer.Option(help="Format of the plots, with --out.")] = Plots.png,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write everything, and the examples, as one page for a browser; print no tables.",
            show_default=False,
        ),
    ] = None,
    errors: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Instead: a method's outputs one by one, the worst first.",
            show_default=False,
            rich_help_panel=EXAMPLES,
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Instead: the outputs on which two methods differ most, side by side.",
            show_default=False,
            rich_help_panel=EXAMPLES,
        ),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(
            min=1,
            help="At most so many examples; with --compare each way.",
            rich_help_panel=EXAMPLES,
        ),
    ] = 10,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Where the corpus is now, if neither the recipe knows it nor the runs keep it.",
            show_default=False,
            rich_help_panel=EXAMPLES,
        ),
    ] = None,
    plugins: Plugins = None,
) -> None:
    """Print the tables of finished runs, or the examples on which methods fail or differ.

    \b
    Examples:
      onepass report runs/smalltown
      onepass report runs/smalltown --out paper --plots pdf
      onepass report runs/smalltown --errors lc++ --limit 5
      onepass report runs/smalltown --compare lc++ multi-step
      onepass report runs/smalltown --errors linear --format csv
      onepass report runs/smalltown --html report.html
    """
    if errors is not None or compare is not None:
        refuse(ctx, ("html",), "holds all examples already; leave out --errors and --compare")
        _examples(ctx, folder, errors, compare, limit, corpus, format)
        return
    refuse(ctx, ("limit",), "belongs to --errors or --compare; give one of them")
    if html is None:
        refuse(ctx, ("corpus",), "belongs to --errors, --compare or --html; give one of them")
    if out is None:
        refuse(ctx, ("plots",), "needs --out, the folder to write them into")
    if format is Format.jsonl:
        raise OnepassError("--format jsonl is for --errors and --compare; choose csv for tables")
    if html is not None:
        from onepass.comparison.html.page import write_page

        check_writable(html, folder=False)
        examples = write_page(folder, html, reference, against, corpus)
        typer.echo(f"wrote {html}: {examples.note}", err=True)
        if out is None:
            return
    from onepass.comparison.report import make_report, report_markdown, write_report
    from onepass.comparison.table import to_csv

    if out is not None:
        check_writable(out)
    found = make_report(folder, reference, against, ranked=sort is Sort.headline)
    if out is not None:
        for path in write_report(found, out, plots):
            typer.echo(f"wrote {path}", err=True)
    if html is not None:
        return
    match format:
        case Format.table:
            console = Console()
            console.print(f"{found.title}: {found.setting}", markup=False, highlight=False)
            width = console.width if console.is_terminal else _PIPED
            for table in found.shown():
                for number, part in enumerate(_parts(table, width)):
                    drawn = _rich(part, title=number == 0)
                    # Lines that a narrow terminal folds can be read; numbers cut to "9…" cannot.
                    Console(width=max(width, _width(drawn))).print(drawn)
                console.print(f"{table.note}\n", markup=False, highlight=False)
            console.print(found.agreement_text(), markup=False)
            for remark in filter(None, (found.missing, found.changed)):
                console.print(remark, style="yellow", markup=False)
        case Format.markdown:
            typer.echo(report_markdown(found, plots))
        case Format.csv:
            typer.echo(to_csv(found.per_task), nl=False)
        case Format.table1:
            typer.echo(to_csv(found.comparison), nl=False)
        case Format.table2:
            typer.echo(to_csv(found.costs), nl=False)


def _examples(
    ctx: typer.Context,
    folder: Path,
    errors: str | None,
    compare: tuple[str, str] | None,
    limit: int,
    corpus: str | None,
    format: Format,
) -> None:
    """Print the examples that --errors or --compare ask for."""
    from onepass.cli.listing import print_listing
    from onepass.comparison import listing
    from onepass.comparison.examples import read_example_rows
    from onepass.comparison.report import read_results

    if errors is not None and compare is not None:
        raise OnepassError("--errors and --compare are two reports; give one of them")
    refuse(
        ctx,
        ("reference", "sort", "against", "out", "plots"),
        "is for tables; leave out --errors and --compare",
    )
    if format in (Format.table1, Format.table2):
        raise OnepassError(f"--format {format} is a table; examples: table, markdown, csv or jsonl")
    results = read_results(folder)
    if compare is not None:
        rows = read_example_rows(folder, results, compare, corpus)
        found = listing.differences(results, rows, *compare, limit)
    else:
        method = str(errors)
        rows = read_example_rows(folder, results, [method], corpus)
        found = listing.errors(results, rows, method, limit)
    match format:
        case Format.markdown:
            typer.echo(listing.listing_markdown(found))
        case Format.csv:
            typer.echo(listing.listing_csv(found), nl=False)
        case Format.jsonl:
            typer.echo(listing.listing_jsonl(found), nl=False)
        case _:
            print_listing(found)


def _parts(table: "Table", width: int) -> list["Table"]:
    """The table in as many parts as it takes to fit the width, each with the first column."""
    parts, left = [], list(range(1, len(table.columns)))
    while left:
        count = len(left)
        while count > 1 and _width(_rich(table.with_columns([0, *left[:count]]))) > width:
            count -= 1
        parts.append(table.with_columns([0, *left[:count]]))
        left = left[count:]
    return parts


def _width(drawn: RichTable) -> int:
    """The columns of a terminal that a table takes."""
    console = Console()
    return console.measure(drawn, options=console.options.update(max_width=_WIDEST)).maximum


def _rich(table: "Table", title: bool = False) -> RichTable:
    drawn = RichTable(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    drawn.title = Text(table.title) if title else None
    for place, column in enumerate(table.columns):
        # A column's words may stand below each other: headings are longer than numbers.
        heading = column.heading.replace(": ", "\n").replace(" + ", "\n+ ").replace(", ", ",\n")
        drawn.add_column(
            heading, justify="right" if table.is_number(place) else "left", no_wrap=place == 0
        )
    best = table.best()
    for number, row in enumerate(table.texts()):
        drawn.add_row(
            *(
                Text(text, style="bold" if (number, place) in best else "")
                for place, text in enumerate(row)
            )
        )
    return drawn
