"""Methods side by side: a table of their scores and costs, and their outputs on one text."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import onepass.smalltown.verified  # noqa: F401
from onepass.adapters.composition import Cost
from onepass.cli.show import percent, print_table
from onepass.evaluate.metrics import METRICS
from onepass.evaluate.score import score
from onepass.evaluate.stats import mean_interval
from onepass.smalltown.read import verify
from onepass.tasks.example import Example
from onepass.tasks.task import Task

Outputs = Mapping[str, Sequence[str]]
"""By method, an output for each example."""


def print_comparison(
    outputs: Outputs, costs: Mapping[str, Cost], examples: Sequence[Example], task: Task
) -> None:
    """A row per method: scores in percent, the share verified with its 95 % interval, and costs."""
    metrics = [task.metric, "facts", "right_language", "verified"]
    titles = [METRICS.get(name).title for name in metrics]
    rows = []
    for method, texts in outputs.items():
        scores = score(texts, examples, task, metrics)
        means = {name: mean_interval(scores[name]) for name in metrics}
        right = means["verified"]
        rows.append(
            [
                method,
                *(percent(means[name].mean) for name in metrics),
                f"{percent(right.low)} to {percent(right.high)}",
                str(costs[method].passes),
                f"{costs[method].extra_bytes:,}",
            ]
        )
    header = ["method", *titles, "95 % interval", "passes", "extra bytes"]
    print(f"\n{task.name}, {len(examples)} test conversations; scores in percent\n")
    print_table(header, rows, numbers=True)


def print_conversations(outputs: Outputs, examples: Sequence[Example], task: Task) -> None:
    """Each conversation with what every method made of it, and what the verifier finds wrong."""
    console = Console()
    for number, example in enumerate(examples):
        console.print(f"\nConversation {number + 1}", style="bold")
        console.print(Padding(Text(example.input), (0, 2)))
        table = Table(box=None, show_header=False, pad_edge=False, expand=True)
        table.add_column(no_wrap=True)
        table.add_column(ratio=3)
        table.add_column(ratio=2)
        table.add_row("target", Text(example.target), "", style="bold")
        for method, texts in outputs.items():
            verdict = verify(texts[number], example.meta, task)
            table.add_row(
                method, Text(texts[number]), "verified" if verdict.verified else verdict.why
            )
        console.print(table)
    console.print()
