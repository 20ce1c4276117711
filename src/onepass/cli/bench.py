"""`onepass bench`: run the cells of a recipe that are not yet done."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from onepass.cli.plan import print_plan

if TYPE_CHECKING:
    from onepass.adapters.adapter import Adapter
    from onepass.bench.recipe import Recipe
    from onepass.bench.workers import Event, Failed

FAILED = 1


def bench(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Where the runs go.", show_default="runs/NAME")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Processes, one thread each; 0: here.",
            show_default="cores; 1 on a GPU",
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD[/TASK]", help="Only cells like this; * and ? match any."),
    ] = None,
    redo: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD",
            help="Run cells of a method again that its older code made; * and ? match any.",
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field of the recipe: base=FOLDER, device=cuda, options.lc.max_steps=50.",
        ),
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Print what it would cost, roughly, and run nothing.")
    ] = False,
    flops: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            help="For --plan: FLOP/s that a worker really reaches. By default as the runs did that "
            "are finished, or else a share of what a matrix product reaches here.",
        ),
    ] = None,
) -> None:
    """Run the cells of a recipe that are not yet done.

    A cell is one method on one task with one budget of examples and one seed. Finished cells are
    never done again unless what they depend on has changed, and Ctrl-C loses nothing but seconds.
    A changed method is only reported; --redo METHOD then runs its cells again.
    A recipe with a section `train` has the adapters that are missing trained first.

    
    Examples:
      onepass bench recipes/smalltown.yaml --workers 2
      onepass bench recipes/smalltown.yaml --only 'lc*' --only linear/summarize+translate:es
      onepass bench recipes/paper/all.yaml --plan
      onepass bench recipes/paper/all.yaml --set base=MODEL_FOLDER --out runs/model
    """
    from onepass.bench.adapters import missing, with_places
    from onepass.bench.bench import make_plan, run_bench
    from onepass.bench.cells import methods_like
    from onepass.bench.changes import changed_text
    from onepass.bench.recipe import recipe_from
    from onepass.bench.workers import in_processes, in_this_process
    from onepass.core.files import read_text
    from onepass.model.load import check_loadable

    text = changed_text(read_text(recipe), recipe, changes or ())
    loaded = recipe_from(text, recipe)
    folder = out or Path("runs") / loaded.name
    loaded = with_places(loaded, folder)
    again = methods_like(loaded, redo or ())
    console = Console(stderr=True)
    if workers is None:
        workers = 1 if _on_gpu(loaded.device) else os.cpu_count() or 1
    if plan_only:
        plan = make_plan(loaded, folder, only or (), again)
        print_plan(loaded, folder, plan, only or (), flops, max(workers, 1))
        return
    check_loadable(loaded.base, loaded.device, loaded.dtype, loaded.quantization)
    if untrained := missing(loaded, only or ()):
        console.print(
            f"{loaded.name}: training adapters first, for {', '.join(untrained)}", soft_wrap=True
        )
        _train(loaded, text, folder, only or (), console)
    plan = make_plan(loaded, folder, only or (), again)
    console.print(
        f"{loaded.name}: {plan.cells} cells, {plan.done} of them done already", soft_wrap=True
    )
    if plan.changed:
        console.print(plan.changed, style="yellow", markup=False, soft_wrap=True)
    backend = in_processes(workers) if workers else in_this_process
    events = run_bench(plan, loaded, text, folder, backend)
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


def _on_gpu(device: str) -> bool:
    """Whether all workers would share a GPU, of whose memory each takes a base's share."""
    import torch

    return device.startswith("cuda") or (
        device in ("auto", "balanced") and torch.cuda.is_available()
    )


def _train(
    recipe: "Recipe", text: str, folder: Path, only: Sequence[str], console: Console
) -> None:
    """Train the adapters that are missing, one after the other."""
    from onepass.bench.adapters import train_missing
    from onepass.bench.runs import open_folder

    open_folder(folder, recipe, text)

    def on_done(task: str, adapter: "Adapter") -> None:
        loss = adapter.card["validation_loss"]
        validated = "" if loss is None else f", validation loss {loss:.4f} nats per token"
        console.print(f"adapter {task}: {adapter.card['steps']} steps{validated}", soft_wrap=True)

    try:
        train_missing(recipe, folder, only, on_done)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from here ({folder})") from None


def _follow(events: "Iterator[Event]", total: int, done: int, console: Console) -> "list[Failed]":
    """Show the progress until the events end; the failures."""
    from onepass.bench.workers import Failed, Finished, Progressed, Started
    from onepass.model.progress import progress_bar

    failures: list[Failed] = []
    running: Counter[str] = Counter()
    outputs, began = 0, time.monotonic()
    with progress_bar("cells", total, start=done, console=console) as update:
        for event in events:
            match event:
                case Started(job):
                    running[job.title] += 1
                case Progressed(count):
                    outputs += count
                case Finished(job, cells, tokens, seconds):
                    running -= Counter([job.title])
                    done += cells
                    speed = f", {tokens / seconds:.0f} tokens/s" if seconds else ""
                    said = f"{cells} cells" if cells > 1 else "done" if cells else "done elsewhere"
                    console.print(f"{job.title}: {said}{speed}", markup=False, highlight=False)
                case Failed(job, message, _):
                    running -= Counter([job.title])
                    failures.append(event)
                    console.print(f"{job.title}: failed, {message}", markup=False)
            rate = outputs / max(time.monotonic() - began, 1e-9)
            update(done, f"{rate:.1f} outputs/s, running: {', '.join(running)}")
    return failures
