"""`onepass ls`: what there is to name on the command line and in recipes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onepass.cli.options import Plugins, TasksFile
from onepass.cli.show import Cells, print_table


class Listing(StrEnum):
    tasks = "tasks"
    methods = "methods"
    merges = "merges"
    metrics = "metrics"


def ls(
    kind: Annotated[Listing, typer.Argument(help="What to list.")],
    tasks: TasksFile = None,
    plugins: Plugins = None,
) -> None:
    """List the known tasks, methods, merges or metrics.

    On a terminal a table; in a pipe one line each, its columns separated by tabs. Of a task it
    shows the whole prompt; of a combination, what its parts' phrases make.

    \b
    Examples:
      onepass ls methods --plugin my_method.py
      onepass ls tasks --tasks tasks.yaml
    """
    print_table(*(_tasks(tasks) if kind is Listing.tasks else LISTS[kind]()))


def _tasks(declared: Path | None) -> tuple[Cells, list[Cells]]:
    from onepass.tasks.benchmark import COMPOSITIONAL_TASKS
    from onepass.tasks.book import Tasks, read_tasks
    from onepass.tasks.task import PROMPT

    book = read_tasks(declared) if declared else Tasks(())
    rows: list[Cells] = []
    for name in dict.fromkeys((*book.names(), *COMPOSITIONAL_TASKS)):
        task = book.parse(name)
        asked = task.instruction if task.prompt == PROMPT else task.message("{text}")
        system = f"[{task.system}] " if task.system else ""
        rows.append((name, task.role, task.language or "", task.metric, f"{system}{asked!r}"[:300]))
    return ("task", "role", "language", "metric", "prompt"), rows


def _methods() -> tuple[Cells, list[Cells]]:
    from onepass.methods import METHODS

    return ("method", "what it is"), [(name, METHODS.get(name).title) for name in METHODS]


def _merges() -> tuple[Cells, list[Cells]]:
    from onepass.adapters.merging import MERGES

    rows: list[Cells] = []
    for name in MERGES:
        found = MERGES.get(name)
        options = ", ".join(f"{option}={value}" for option, value in found.options.items())
        rows.append((name, found.title, options))
    return ("merge", "what it is", "options"), rows


def _metrics() -> tuple[Cells, list[Cells]]:
    import onepass.smalltown.verified  # noqa: F401
    from onepass.evaluate.metrics import METRICS

    return ("metric", "what it is"), [(name, METRICS.get(name).title) for name in METRICS]


LISTS = {Listing.methods: _methods, Listing.merges: _merges, Listing.metrics: _metrics}
