"""`onepass bench`: run the cells of a recipe that are not yet done."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from onepass.bench.workers import Event, Failed

FAILED = 1


def bench(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Where the runs go.", show_default="runs/NAME")
    ] = None,
    workers: Annotated[
        int,
        typer.Option(min=0, help="Processes, one thread each; 0: here.", show_default="cores"),
    ] = os.cpu_count() or 1,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD[/TASK]", help="Only cells like this; * and ? match any."),
    ] = None,
) -> None:
    """Run the cells of a recipe that are not yet done.

    A cell is one method on one task with one budget of examples and one seed. Finished cells are
    never done again unless what they depend on has changed, and Ctrl-C loses nothing but seconds.
    """
    from onepass.bench.bench import make_plan, run_bench
    from onepass.bench.recipe import load_recipe
    from onepass.bench.workers import in_processes, in_this_process
    from onepass.core.files import read_text

    loaded = load_recipe(recipe)
    folder = out or Path("runs") / loaded.name
    plan = make_plan(loaded, folder, only or ())
    console = Console(stderr=True)
    console.print(
        f"{loaded.name}: {plan.cells} cells, {plan.done} of them done already", soft_wrap=True
    )
    backend = in_processes(workers) if workers else in_this_process
    events = run_bench(plan, loaded, read_text(recipe), folder, backend)
    try:
        with closing(events):
            failures = _follow(events, plan.cells, plan.done, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from here ({folder})") from None
    for failure in failures:
        console.print(f"failed: {failure.job.title}: {failure.message}", markup=False)
    if failures:
        console.print(f"{len(failures)} jobs failed; details are in {folder / '.failures'}")
        raise typer.Exit(FAILED)
    console.print(f"done; see them with: onepass report {folder}", soft_wrap=True)


def _follow(events: "Iterator[Event]", total: int, done: int, console: Console) -> "list[Failed]":
    """Draw the progress until there is no more; the failures."""
    from onepass.bench.workers import Failed, Finished, Progressed, Started

    failures: list[Failed] = []
    running: Counter[str] = Counter()
    outputs, began = 0, time.monotonic()
    columns = (
        TextColumn("cells"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task("", total=total, completed=done)
        for event in events:
            match event:
                case Started(job):
                    running[job.title] += 1
                case Progressed(count):
                    outputs += count
                case Finished(job, cells, tokens, seconds):
                    running -= Counter([job.title])
                    bar.advance(task, cells)
                    speed = f", {tokens / seconds:.0f} tokens/s" if seconds else ""
                    said = f"{cells} cells" if cells > 1 else "done" if cells else "done elsewhere"
                    bar.console.print(f"{job.title}: {said}{speed}", markup=False, highlight=False)
                case Failed(job, message, _):
                    running -= Counter([job.title])
                    failures.append(event)
                    bar.console.print(f"{job.title}: failed, {message}", markup=False)
            rate = outputs / max(time.monotonic() - began, 1e-9)
            bar.update(task, description=f"{rate:.1f} outputs/s  {', '.join(running)}")
    return failures
