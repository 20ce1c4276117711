"""`onepass data export`: the examples of a task, as JSON lines."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from onepass.api.outputs import check_writable
from onepass.api.resolve import as_task
from onepass.cli.options import Columns, CorpusNames, TaskName, TasksFile, parse_columns
from onepass.cli.show import note
from onepass.core.files import to_jsonl
from onepass.tasks.corpus import example_rows, load_corpus, write_examples


def data_export(
    task: TaskName,
    tasks: TasksFile = None,
    corpus: CorpusNames = None,
    columns: Columns = None,
    split: Annotated[
        str, typer.Option(help="train, validation, test, or one more that the corpus has.")
    ] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many only.")] = None,
    out: Annotated[str, typer.Option("--out", "-o", help="A file, or - to print them.")] = "-",
) -> None:
    """Export the examples of a task and split as JSON lines.

    Each line has "id", "input", "task" and "target" (or "targets"), as every --corpus reads them.

    \b
    Examples:
      onepass data export summarize+translate:es --limit 3
      onepass data export reply --split test --limit 100 --out test.jsonl
      onepass data export summarize --corpus dialogsum:DIALOGSUM_FOLDER
          --out train.jsonl
    """
    wanted = as_task(task, tasks)
    if out != "-":
        check_writable(Path(out), folder=False)
    examples = load_corpus(corpus or ["smalltown"], parse_columns(columns)).examples(
        wanted, split, limit
    )
    if out != "-":
        write_examples(out, examples, wanted)
        note(f"{len(examples)} examples in {out}")
        return
    sys.stdout.write(to_jsonl(example_rows(examples, wanted)))
