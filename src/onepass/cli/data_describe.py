"""`onepass data describe`: what data are, and whether the files at hand are upstream's."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from onepass.cli.options import Columns, Model, parse_columns
from onepass.cli.show import print_table

WIDE = 76  # of a line of an example; its mark and a space stand before it


def data_describe(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A file, a folder, hub:OWNER/NAME, or a public corpus, as NAME or NAME:PATH; see "
            "docs/data.md.",
        ),
    ],
    columns: Columns = None,
    model: Model = "tiny",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what data are: rows, columns, splits, lengths, languages, and three examples.

    Lengths are in tokens of --model, without the prompt around the input. Languages are guesses,
    from up to 1,000 texts. Of a public corpus its licence, citation and sizes are shown, and of
    files at a path whether each is upstream's by its sha256. Splits that are made here are shown
    with the rows they are made of. A row that cannot be read, or an id that stands twice, is an
    error. Only data on the hub are downloaded, and only if you give hub:OWNER/NAME or
    NAME:hub:OWNER/NAME.

    \b
    Examples:
      onepass data describe chats.csv
      onepass data describe chats.parquet --columns input=chat target=answer
      onepass data describe dialogsum
      onepass data describe dialogsum:DIALOGSUM_FOLDER --model MODEL_FOLDER
    """
    from onepass.api.describe import describe

    with Console(stderr=True).status(f"reading {data}"):
        found = describe(data, parse_columns(columns), model)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2, ensure_ascii=False))
        return
    if found.facts:
        print_table(("fact", "value"), found.facts)
    if found.files:
        typer.echo()
        print_table(("file", "sha256"), found.files)
    if not found.splits:
        return
    if found.facts:
        typer.echo()
    understood = ", ".join(f"{name} ({rows:,} rows)" for name, rows in found.understood.items())
    print_table(
        ("what", "value"),
        [("columns", ", ".join(found.columns)), *([("layout", understood)] if understood else [])],
    )
    typer.echo()
    splits = [
        (
            split.name,
            f"{split.rows:,}",
            ", ".join(f"{count:,} {_of(task)}" for task, count in split.examples.items()),
            split.expected,
        )
        for split in found.splits
    ]
    print_table(("split", "rows", "examples", "rows upstream"), splits)
    if list(found.parts.values()) != [f"the {split} rows" for split in found.parts]:
        typer.echo()
        for name, part in found.parts.items():
            typer.echo(f"{name} is {part}")
    if not found.lengths:
        return
    typer.echo()
    rows = [
        (side, f"{each.median:,}", f"{each.p95:,}", f"{each.longest:,}")
        for side, each in found.lengths.items()
    ]
    print_table((f"tokens of {found.model}", "median", "95 %", "longest"), rows, numbers=True)
    if found.context:
        longer = f"{found.too_long:,} longer than its context of {found.context:,}"
        typer.echo(f"{longer}, input and target together")
    typer.echo()
    languages = [
        (side, ", ".join(f"{code} {share:.0%}" for code, share in shares.items() if share >= 0.005))
        for side, shares in found.languages.items()
    ]
    print_table(("text", "languages"), languages)
    for name, text, target in found.shown:
        typer.echo(f"\n{name}\n> {_short(text)}\n= {_short(target)}")


def _of(task: str) -> str:
    return "of any task" if task == "any" else f"of {task}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDE else f"{line[: WIDE - 1]}…"
