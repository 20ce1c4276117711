"""`onepass data prepare`: compositional sets made of main-task targets."""

import shlex
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from onepass.api.outputs import check_writable
from onepass.cli import options as o
from onepass.cli.show import note, print_table
from onepass.core.errors import OnepassError

LABELLERS, MODELS = "Labellers", "Models of the labellers"


class Start(StrEnum):
    targets = "targets"
    conversations = "conversations"


def data_prepare(
    ctx: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            help="Where main-task examples are from, as for other commands; several may be given, "
            "such as one of summaries and one of replies. By default smalltown.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help="Compositional tasks; by default, or for `all`, those of the benchmark that the "
            "corpus has main-task examples for.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    tasks_file: Annotated[
        Path | None,
        typer.Option(
            "--tasks-file",
            help="A YAML file of tasks of your own; see docs/tasks.md.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    splits: Annotated[
        list[str] | None,
        typer.Option(
            help="By default train, validation and test.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="The first so many examples a split.", rich_help_panel=o.DATA),
    ] = None,
    start: Annotated[
        Start,
        typer.Option(
            "--from",
            help="What the labellers start from: the corpus's main-task targets, or conversations "
            "alone, for which multi-step makes those first.",
            rich_help_panel=o.DATA,
        ),
    ] = Start.targets,
    translate_with: Annotated[
        str | None,
        typer.Option(
            help="seq2seq, instruct, endpoint or multi-step, for translations.",
            rich_help_panel=LABELLERS,
        ),
    ] = None,
    tone_with: Annotated[
        str | None,
        typer.Option(
            help="instruct, endpoint or multi-step, for tones.", rich_help_panel=LABELLERS
        ),
    ] = None,
    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Write the sets without the labels that a server failed to give.",
            rich_help_panel=LABELLERS,
        ),
    ] = False,
    translator: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LANGUAGE=]MODEL",
            help="Of seq2seq: es=MODEL fr=MODEL de=MODEL (OPUS-MT), or one MODEL for all (NLLB, "
            "M2M100); a folder or hub name.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    beams: Annotated[
        int, typer.Option(min=1, help="Of seq2seq; 1 is greedy.", rich_help_panel=MODELS)
    ] = 4,
    instruct_model: Annotated[
        str,
        typer.Option(
            help="Of instruct: an instruction-tuned model, a folder or hub name.",
            rich_help_panel=MODELS,
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="Of multi-step: the base of the adapters.", rich_help_panel=MODELS
        ),
    ] = "tiny",
    adapters: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=FOLDER",
            help="Of multi-step: PEFT adapters of single tasks; for the base tiny by default the "
            "embedded ones.",
            rich_help_panel=MODELS,
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest label, in tokens.", rich_help_panel=MODELS)
    ] = 256,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Texts at a time, on this machine.", rich_help_panel=MODELS)
    ] = 32,
    device: o.Device = "auto",
    endpoint: o.EndpointUrl = None,
    endpoint_model: Annotated[
        str, typer.Option(help="The server's name of its model.", rich_help_panel=o.SERVER)
    ] = "",
    concurrency: o.Concurrency = 4,
    timeout: o.Timeout = 60.0,
    retries: o.Retries = 5,
    input_price: o.InputPrice = None,
    output_price: o.OutputPrice = None,
    max_cost: o.MaxCost = None,
    max_total_tokens: o.MaxTotalTokens = None,
) -> None:
    """Make compositional sets: main-task targets, translated or in another tone.

    Labels are kept as they come in OUT/.cache: a command that was stopped goes on where it was, and
    one that is repeated asks nothing again. OUT is a corpus for all its tasks (`--corpus OUT`), and
    has a dataset card with what was left out and why. docs/prepare.md describes the labellers.

    \b
    Examples:
      onepass data prepare --out sets --translate-with multi-step
          --tone-with multi-step --limit 20
      onepass data prepare --out sets --corpus dialogsum:FOLDER
          --tasks summarize+translate:es
          --translate-with seq2seq --translator es=OPUS_MT_FOLDER
      onepass data prepare --out sets
          --corpus dialogsum:FOLDER persona-chat:FOLDER
          --translate-with seq2seq --translator NLLB_FOLDER
          --tone-with endpoint --endpoint http://127.0.0.1:8000/v1
          --endpoint-model MODEL
    """
    check_writable(out)

    from onepass.api.resolve import as_tasks
    from onepass.model.load import check_machine
    from onepass.prepare.labeller import Options
    from onepass.prepare.prepare import CACHE, Plan, prepare
    from onepass.prepare.sets import HEADER
    from onepass.serve.endpoint import Endpoint
    from onepass.tasks.corpus import SPLITS

    check_machine(device, "auto", "none")
    book = as_tasks(tasks_file)
    singles = [book.parse(name) for name in book.names() if "+" not in name]
    languages = [task.language for task in singles if task.role == "auxiliary" and task.language]
    server = endpoint and Endpoint(
        endpoint,
        endpoint_model,
        concurrency=concurrency,
        timeout=timeout,
        retries=retries,
        input_price=input_price,
        output_price=output_price,
        max_cost=max_cost,
        max_total_tokens=max_total_tokens,
    )
    plan = Plan(
        corpora=corpus or ["smalltown"],
        tasks=None if tasks in (None, [], ["all"]) else [book.parse(name) for name in tasks or []],
        labellers={
            kind: name
            for kind, name in (("translate", translate_with), ("tone", tone_with))
            if name
        },
        splits=splits or SPLITS,
        limit=limit,
        from_conversations=start is Start.conversations,
        allow_missing=allow_missing,
    )
    models = Options(
        translators=_named("--translator", translator, languages, bare=True),
        beams=beams,
        instruct=instruct_model,
        endpoint=server or None,
        model=model,
        adapters={
            part: Path(folder)
            for part, folder in _named(
                "--adapters", adapters, [task.name for task in singles]
            ).items()
        },
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        device=device,
    )
    began = time.perf_counter()
    try:
        prepared = prepare(plan, models, out, _command(ctx), progress=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"labels are kept in {out / CACHE}; the same command goes on from there"
        ) from None
    print_table(HEADER, [each.row for each in prepared.sets], numbers=True)
    for each in prepared.sets:
        if not each.rows:
            note(f"note: nothing is left of {each.task.name} in {each.split}")
    rows = sum(each.rows for each in prepared.sets)
    seconds = time.perf_counter() - began
    note(f"{out}: {rows} rows; {prepared.made} labels newly made, in {seconds:.1f} s")


def _named(option: str, given: list[str] | None, names: Any, bare: bool = False) -> dict[str, str]:
    """The values of NAME=VALUE by name; one VALUE without a name, if `bare` is allowed, by ""."""
    found: dict[str, str] = {}
    for item in given or ():
        name, equals, value = item.partition("=")
        if name not in names:
            if equals or not bare:
                raise OnepassError(
                    f"{option} {item!r}: write NAME=VALUE, where NAME is one of {', '.join(names)}"
                )
            name, value = "", item
        if name in found:
            raise OnepassError(f"{option} gives {name or 'a model for all'} twice")
        if not value:
            raise OnepassError(f"{option} {item!r}: nothing stands behind the =")
        found[name] = value
    return found


def _command(ctx: typer.Context) -> str:
    """The command line as it was given, for the card: no key is in it, those are in variables."""
    words = ["onepass", "data", "prepare"]
    for name, option in o.given(ctx).items():
        value = ctx.params[name]
        if value is True:
            words.append(option)
        else:
            words += [option, *map(str, value if isinstance(value, list | tuple) else [value])]
    return shlex.join(words)
