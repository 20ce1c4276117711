"""`onepass ls`: what there is to name on the command line and in recipes."""

from enum import StrEnum
from typing import Annotated

import typer

from onepass.cli.show import print_table

Row = tuple[str, ...]


class Kind(StrEnum):
    tasks = "tasks"
    methods = "methods"
    merges = "merges"
    metrics = "metrics"


def ls(kind: Annotated[Kind, typer.Argument(help="What to list.")]) -> None:
    """List the known tasks, methods, merges or metrics.

    On a terminal a table; in a pipe one line each, its columns separated by tabs.

    \b
    Example:
      onepass ls methods
    """
    print_table(*LISTS[kind]())


def _tasks() -> tuple[Row, list[Row]]:
    from onepass.tasks.benchmark import COMPOSITIONAL_TASKS, SINGLE_TASKS
    from onepass.tasks.book import parse_task

    tasks = [parse_task(name) for name in (*SINGLE_TASKS, *COMPOSITIONAL_TASKS)]
    return ("task", "metric", "instruction"), [
        (task.name, task.metric, task.instruction) for task in tasks
    ]


def _methods() -> tuple[Row, list[Row]]:
    from onepass.methods import METHODS

    return ("method", "what it is"), [(name, METHODS.get(name).title) for name in METHODS]


def _merges() -> tuple[Row, list[Row]]:
    from onepass.adapters.merging import MERGES

    rows: list[Row] = []
    for name in MERGES:
        found = MERGES.get(name)
        options = ", ".join(f"{option}={value}" for option, value in found.options.items())
        rows.append((name, found.title, options))
    return ("merge", "what it is", "options"), rows


def _metrics() -> tuple[Row, list[Row]]:
    import onepass.smalltown.verified  # noqa: F401
    from onepass.evaluate.metrics import METRICS

    return ("metric", "what it is"), [(name, METRICS.get(name).title) for name in METRICS]


LISTS = {Kind.tasks: _tasks, Kind.methods: _methods, Kind.merges: _merges, Kind.metrics: _metrics}
