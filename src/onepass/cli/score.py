"""`onepass score`: how good stored predictions are."""

from pathlib import Path
from typing import Annotated

import typer

from onepass.cli.options import Columns, CorpusName, parse_columns
from onepass.core.errors import OnepassError
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import load_corpus
from onepass.tasks.data import predictions_of


def score(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="A file of rows with id and prediction.")
    ],
    task: Annotated[str, typer.Option("--task", "-t", help="What they should have done.")],
    corpus: CorpusName = "smalltown",
    columns: Columns = None,
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
    import onepass.smalltown.verified  # noqa: F401
    from onepass.evaluate.metrics import METRICS

    for name in metrics or []:
        METRICS.get(name)
    wanted = parse_task(task)
    found = predictions_of(predictions)
    source = load_corpus(corpus, parse_columns(columns))
    known = {example.id: example for example in source.examples(wanted, split, limit)}
    for name in found:
        if name not in known:
            raise OnepassError(
                f"{predictions}: prediction {name!r} is of none of the {len(known)} examples that "
                f"{source.name} has for {wanted.name} in the split {split!r}; name the --corpus, "
                "--split and --limit that the predictions were made on"
            )

    from onepass.cli.held_out import print_score_table

    print_score_table(
        list(found.values()), [known[name] for name in found], wanted, metrics or None
    )
