"""`onepass judge`: a language model on the predictions of finished runs."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onepass.cli.options import (
    Concurrency,
    Device,
    Dtype,
    EndpointUrl,
    InputPrice,
    MaxCost,
    MaxTotalTokens,
    OutputPrice,
    Quantization,
    Retries,
    Timeout,
    refuse,
)
from onepass.cli.show import describe_spent, note, print_table
from onepass.core.errors import OnepassError

if TYPE_CHECKING:
    from onepass.comparison.judging import Questions

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def judge(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `onepass bench` made.", show_default=False)
    ],
    judge: Annotated[
        str | None,
        typer.Option("--judge", help="An instruction model to run here: a folder or a hub name."),
    ] = None,
    endpoint: EndpointUrl = None,
    judge_model: Annotated[
        str | None, typer.Option(help="The server's name for the judge, with --endpoint.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="What to call the judge in files and tables; by default its model."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD[/TASK]", help="Only cells like this; * and ? match any."),
    ] = None,
    splits: Annotated[
        list[str] | None, typer.Option(help="Of the recipe; by default its first.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many outputs of a cell's split.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Where the corpus is now; by default where the recipe says.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest answer; more for a judge that reasons first.")
    ] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Outputs at a time, run here.")] = 8,
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantization: Quantization = "none",
    concurrency: Concurrency = 4,
    timeout: Timeout = 60.0,
    retries: Retries = 5,
    input_price: InputPrice = None,
    output_price: OutputPrice = None,
    max_cost: MaxCost = None,
    max_total_tokens: MaxTotalTokens = None,
) -> None:
    """Have a language model judge the predictions of finished runs.

    It is shown the conversation, correct outputs and the prediction, and says whether this does all
    that the task wants. Its answers are kept beside the predictions, and `onepass report` shows
    them. Nothing is asked twice: stop it and run it again as you like.

    \b
    Examples:
      onepass judge runs/smalltown --judge MODEL_FOLDER
      onepass judge runs/smalltown --judge MODEL_FOLDER --device cuda:1
          --base-quantization 4bit
      onepass judge runs/smalltown --endpoint http://127.0.0.1:8000/v1
          --judge-model NAME
      onepass judge runs/smalltown --endpoint URL --judge-model NAME
          --limit 50 --only 'lc*'
          --input-price 0.6 --output-price 2.4 --max-cost 5
    """
    if (judge is None) == (endpoint is None):
        raise OnepassError("name one judge: --judge MODEL, or --endpoint URL with --judge-model")
    if (endpoint is None) != (judge_model is None):
        raise OnepassError("--endpoint and --judge-model belong together; give both")
    if endpoint is None:
        refuse(
            ctx,
            ["concurrency", "timeout", "retries", "input_price", "output_price", "max_cost",
             "max_total_tokens"],
            "is about a server; give its --endpoint, too",
        )  # fmt: skip
    else:
        refuse(
            ctx, ["batch_size", "device", "dtype", "quantization"],
            "says nothing about a server, which has its own machine",
        )  # fmt: skip
    if name is not None and not _NAME.fullmatch(name):
        raise OnepassError(f"--name {name!r} is no file name; use letters, digits, - and _")

    from onepass.comparison.judging import Choice, ask_open, collect, endpoint_judge, local_judge
    from onepass.serve.endpoint import Endpoint, Spent

    spent = Spent()
    if endpoint is not None and judge_model is not None:
        server = Endpoint(
            endpoint,
            judge_model,
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            input_price=input_price,
            output_price=output_price,
            max_cost=max_cost,
            max_total_tokens=max_total_tokens,
        )
        chosen = endpoint_judge(server, max_new_tokens, spent, name)
    else:
        server = None
        chosen = local_judge(
            str(judge), max_new_tokens, batch_size, name, device, dtype, quantization
        )
    questions = collect(folder, chosen, Choice(only or (), splits or (), limit, corpus))
    todo = len(questions.open)
    different = len(questions.prompts)
    note(f"{questions.predictions} outputs, {different} of them different, {todo} to ask")
    try:
        from onepass.model.progress import counting

        with counting("asked", todo) as progress:
            failed = ask_open(questions, progress)
    finally:
        if server is not None and todo:
            note(describe_spent(spent, server))
    if failed:
        note(f"{failed} had no answer; the same command asks about them again")
    _show(questions)


def _show(questions: "Questions") -> None:
    from onepass.comparison.judge_tables import judge_tables
    from onepass.comparison.judgements import load_judged, with_scores
    from onepass.comparison.results import Results
    from onepass.comparison.runs import load_runs

    recipe, runs = load_runs(questions.folder)
    judged = [
        each for each in load_judged(questions.folder, runs) if each.name == questions.judge.name
    ]
    for table in judge_tables(Results(recipe, *with_scores(runs, judged)), judged):
        note(table.title)
        print_table([column.heading for column in table.columns], table.texts(), numbers=True)
        note(table.note)
