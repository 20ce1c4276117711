"""`onepass demo`: what the project is for, offline and in minutes."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onepass.cli.show import note

if TYPE_CHECKING:
    from onepass.api.demo import Comparison

SHOWN = 3  # conversations with all their outputs


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("runs/demo"),
    examples: Annotated[int, typer.Option(min=1, help="To calibrate on.")] = 4000,
    test: Annotated[int, typer.Option(min=1, help="Conversations to compare on.")] = 100,
) -> None:
    """Compose two tasks in one pass, offline, and compare the methods.

    Takes the embedded base with its adapters for summaries and for Spanish, calibrates them to
    write Spanish summaries in one pass, and compares that with the other ways there are.

    \b
    Example:
      onepass demo --out runs/demo
    """
    from onepass.api.demo import TASK, compare, ingredients

    began = time.perf_counter()
    note(f"calibrating lc and lc++ for {TASK} on {examples} examples, side by side ...")
    show(compare(ingredients(examples), out, test), out)
    note(f"all in {time.perf_counter() - began:.0f} s")


def show(found: "Comparison", out: Path) -> None:
    """Print the table, some conversations, and how to go on."""
    from onepass.cli.side_by_side import print_comparison, print_conversations

    print_comparison(found.outputs, found.costs, found.examples, found.task)
    print_conversations(found.outputs, found.examples[:SHOWN], found.task)
    typer.echo(f"The compositions are in {out / 'lc'} and {out / 'lc++'}. Run one on a text file")
    typer.echo("with a conversation of your own; here is one to begin with:")
    typer.echo(f"  onepass generate {out / 'lc++'} --input {found.conversation}")
