"""`onepass bench`: run the cells of a recipe that are not yet done."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from onepass.cli.options import Plugins
from onepass.cli.plan import print_plan
from onepass.cli.show import note

if TYPE_CHECKING:
    from onepass.adapters.adapter import Adapter
    from onepass.api.benching import Bench
    from onepass.comparison.cells import Job
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
    plugins: Plugins = None,
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
      onepass bench my-recipe.yaml --plugin my_method.py
      onepass bench recipes/paper/all.yaml --plan
      onepass bench recipes/paper/all.yaml --set base=MODEL_FOLDER
          --out runs/model
    """
    from onepass.api.benching import default_workers, open_bench

    found = open_bench(recipe, out, only=only or (), redo=redo or (), changes=changes or ())
    if plan_only:
        count = default_workers(found.recipe.device) if workers is None else workers
        print_plan(found.recipe, found.folder, found.plan(), only or (), flops, max(count, 1))
        if shared := found.overlap():
            note(shared)
        return
    follow(found, workers)
    say(f"done; see them with: onepass report {found.folder}")


def say(message: str, style: str = "") -> None:
    """Print a line of progress."""
    Console(stderr=True).print(message, style=style, markup=False, soft_wrap=True)


def follow(
    found: "Bench",
    workers: int | None,
    only_train: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> None:
    """Run a bench and show how it goes; leave with `FAILED` if a job failed.

    only_train: the adapters that are missing, and no cell. log: is called with each line shown.
    """
    from onepass.model.load import check_loadable

    wanted, folder = found.recipe, found.folder
    console = Console(stderr=True)

    def tell(message: str, style: str = "") -> None:
        console.print(message, style=style, markup=False, soft_wrap=True)
        log(message)

    check_loadable(wanted.base, wanted.device, wanted.dtype, wanted.quantization)

    def trained(task: str, adapter: "Adapter") -> None:
        loss = adapter.card["validation_loss"]
        validated = "" if loss is None else f", validation loss {loss:.4f} nats per token"
        tell(f"adapter {task}: {adapter.card['steps']} steps{validated}")

    if shared := found.overlap():
        tell(shared, "yellow")
    try:
        if untrained := found.untrained():
            tell(f"{wanted.name}: training adapters first, for {', '.join(untrained)}")
            found.train(trained)
        if only_train:
            return
        plan = found.plan()
        tell(f"{wanted.name}: {plan.cells} cells, {plan.done} of them done already")
        if plan.changed:
            tell(plan.changed, "yellow")
        with _following(plan.cells, plan.done, console, tell) as on_event:
            failures = found.run(plan, workers, on_event)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from here ({folder})") from None
    for failure in failures:
        tell(f"failed: {failure.job.title}: {failure.message}")
    if failures:
        tell(f"{len(failures)} jobs failed; details are in {folder / '.failures'}")
        raise typer.Exit(FAILED)


@contextmanager
def _following(
    total: int, done: int, console: Console, tell: Callable[[str], None]
) -> "Iterator[Callable[[Event], None]]":
    """Show the progress while the block lasts; yields what takes the events."""
    from onepass.comparison.workers import Failed, Finished, Progressed, Started, Trained
    from onepass.model.progress import progress_bar

    running: dict[Job, str] = {}  # with how far its training is
    outputs, began = 0, time.monotonic()
    with progress_bar("cells", total, start=done, console=console) as update:

        def on_event(event: "Event") -> None:
            nonlocal outputs, done
            match event:
                case Started(job):
                    running[job] = ""
                case Progressed(count):
                    outputs += count
                case Trained(job, step, of, note):
                    running[job] = "" if step == of else f" ({step}/{of}, {note})"
                case Finished(job, cells, tokens, seconds):
                    running.pop(job, None)
                    done += cells
                    speed = f", {tokens / seconds:.0f} tokens/s" if seconds else ""
                    said = f"{cells} cells" if cells > 1 else "done" if cells else "done elsewhere"
                    tell(f"{job.title}: {said}{speed}")
                case Failed(job, message, _):
                    running.pop(job, None)
                    tell(f"{job.title}: failed, {message}")
            rate = outputs / max(time.monotonic() - began, 1e-9)
            at = ", ".join(job.title + step for job, step in running.items())
            update(done, f"{rate:.1f} outputs/s, running: {at}")

        yield on_event
