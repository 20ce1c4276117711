"""`onepass score`: how good stored predictions are."""

from pathlib import Path
from typing import Annotated

import typer

from onepass.cli import options as o


def score(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="JSON lines with id and prediction.")
    ],
    task: Annotated[str, typer.Option("--task", "-t", help="What they should have done.")],
    tasks: o.TasksFile = None,
    corpus: o.CorpusNames = None,
    columns: o.Columns = None,
    split: Annotated[
        str, typer.Option(help="train, validation, test, or all of a file or folder.")
    ] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Look among the first so many examples.")
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(help="See `onepass ls metrics`; by default all that apply.")
    ] = None,
) -> None:
    """Score stored predictions.

    In percent, each with a 95 % bootstrap interval. Predictions find their example by its id.

    \b
    Examples:
      onepass score predictions.jsonl --task summarize+translate:es
      onepass score predictions.jsonl --task summarize
          --corpus test.jsonl --split all --metrics rouge1 rougeL
    """
    from onepass.api.use import score as score_predictions
    from onepass.cli.held_out import print_score_table

    found = score_predictions(
        predictions, corpus or ["smalltown"], task, tasks=tasks, metrics=metrics or None,
        split=split, limit=limit, columns=o.parse_columns(columns),
    )  # fmt: skip
    print_score_table(found.intervals())
