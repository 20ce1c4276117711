"""`onepass bench`: run the cells of a recipe that are not yet done."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from onepass.cli.plan import print_plan
from onepass.cli.show import note

if TYPE_CHECKING:
    from onepass.adapters.adapter import Adapter
    from onepass.comparison.workers import Event

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

    \b
    Examples:
      onepass bench recipes/smalltown.yaml --workers 2
      onepass bench recipes/smalltown.yaml --only 'lc*'
          --only linear/summarize+translate:es
      onepass bench recipes/paper/all.yaml --plan
      onepass bench recipes/paper/all.yaml --set base=MODEL_FOLDER
          --out runs/model
    """
    from onepass.api.benching import default_workers, open_bench
    from onepass.model.load import check_loadable

    found = open_bench(recipe, out, only=only or (), redo=redo or (), changes=changes or ())
    wanted, folder = found.recipe, found.folder
    console = Console(stderr=True)
    if workers is None:
        workers = default_workers(wanted.device)
    if plan_only:
        print_plan(wanted, folder, found.plan(), only or (), flops, max(workers, 1))
        if shared := found.overlap():
            note(shared)
        return
    check_loadable(wanted.base, wanted.device, wanted.dtype, wanted.quantization)

    def trained(task: str, adapter: "Adapter") -> None:
        loss = adapter.card["validation_loss"]
        validated = "" if loss is None else f", validation loss {loss:.4f} nats per token"
        console.print(f"adapter {task}: {adapter.card['steps']} steps{validated}", soft_wrap=True)

    if shared := found.overlap():
        console.print(shared, style="yellow", markup=False, soft_wrap=True)
    try:
        if untrained := found.untrained():
            console.print(
                f"{wanted.name}: training adapters first, for {', '.join(untrained)}",
                soft_wrap=True,
            )
            found.train(trained)
        plan = found.plan()
        console.print(
            f"{wanted.name}: {plan.cells} cells, {plan.done} of them done already", soft_wrap=True
        )
        if plan.changed:
            console.print(plan.changed, style="yellow", markup=False, soft_wrap=True)
        with _following(plan.cells, plan.done, console) as on_event:
            failures = found.run(plan, workers, on_event)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from here ({folder})") from None
    for failure in failures:
        console.print(f"failed: {failure.job.title}: {failure.message}", markup=False)
    if failures:
        console.print(f"{len(failures)} jobs failed; details are in {folder / '.failures'}")
        raise typer.Exit(FAILED)
    console.print(f"done; see them with: onepass report {folder}", soft_wrap=True)


@contextmanager
def _following(total: int, done: int, console: Console) -> "Iterator[Callable[[Event], None]]":
    """Show the progress while the block lasts; yields what takes the events."""
    from onepass.comparison.workers import Failed, Finished, Progressed, Started
    from onepass.model.progress import progress_bar

    running: Counter[str] = Counter()
    outputs, began = 0, time.monotonic()
    with progress_bar("cells", total, start=done, console=console) as update:

        def on_event(event: "Event") -> None:
            nonlocal outputs, running, done
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
                    console.print(f"{job.title}: failed, {message}", markup=False)
            rate = outputs / max(time.monotonic() - began, 1e-9)
            update(done, f"{rate:.1f} outputs/s, running: {', '.join(running)}")

        yield on_event
