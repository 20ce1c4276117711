"""`onepass ls`: what there is to name on the command line and in recipes."""

from enum import StrEnum
from typing import Annotated

import typer

from onepass.cli.show import Cells, print_table


class Listing(StrEnum):
    tasks = "tasks"
    methods = "methods"
    merges = "merges"
    metrics = "metrics"


def ls(kind: Annotated[Listing, typer.Argument(help="What to list.")]) -> None:
    """List the known tasks, methods, merges or metrics.

    On a terminal a table; in a pipe one line each, its columns separated by tabs.

    \b
    Example:
      onepass ls methods
    """
    print_table(*LISTS[kind]())


def _tasks() -> tuple[Cells, list[Cells]]:
    from onepass.tasks.benchmark import COMPOSITIONAL_TASKS, SINGLE_TASKS
    from onepass.tasks.book import parse_task

    tasks = [parse_task(name) for name in (*SINGLE_TASKS, *COMPOSITIONAL_TASKS)]
    return ("task", "metric", "instruction"), [
        (task.name, task.metric, task.instruction) for task in tasks
    ]


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


LISTS = {"tasks": _tasks, "methods": _methods, "merges": _merges, "metrics": _metrics}
