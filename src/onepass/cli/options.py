"""Arguments and options that several commands share, so that each is spelt and explained once."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from onepass.core.errors import OnepassError

DATA, TRAINING, MACHINE, SERVER = "Data", "Training", "Machine", "Server"

TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help="A task, or several joined by +; see `onepass ls`.")
]
_MODEL = "tiny (embedded), a model folder, a GGUF file, or a hub name"
Model = Annotated[str, typer.Option("--model", "-m", help=f"The base: {_MODEL}.")]
FoundModel = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help=f"The base: {_MODEL}; by default the one the adapters name."
    ),
]
TasksFile = Annotated[
    Path | None,
    typer.Option("--tasks", help="A YAML file of tasks of your own; see docs/tasks.md."),
]


def _use_plugins(files: list[Path] | None) -> list[Path] | None:
    for file in files or ():
        from onepass.methods.plugins import use_plugin

        use_plugin(file)
    return files


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A Python file with methods, merges or metrics of your own.",
        callback=_use_plugins,
        is_eager=True,
    ),
]
OneTask = Annotated[
    str | None,
    typer.Option("--task", "-t", help="Of an adapter, whose card does not name its task."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder to write; by default one in runs/ named by the task."),
]
CorpusNames = Annotated[
    list[str] | None,
    typer.Option(
        "--corpus",
        help="smalltown, or a public corpus as NAME:PATH or, if it is on the hub, NAME; or rows of "
        "your own: a file, a folder, or hub:OWNER/NAME. Several are joined. See docs/data.md.",
        show_default="smalltown",
        rich_help_panel=DATA,
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=COLUMN",
        help="Which columns of your own rows are the input and the target, as in "
        "input=dialogue target=summary; also id, task and messages.",
        rich_help_panel=DATA,
    ),
]
Examples = Annotated[
    int | None,
    typer.Option(min=1, help="Training examples; by default all there are.", rich_help_panel=DATA),
]
Validation = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Validation examples, by which to stop early; 0 for none.",
        show_default="500, where there are any",
        rich_help_panel=DATA,
    ),
]
Test = Annotated[
    int,
    typer.Option(min=0, help="Test examples to score the result on.", rich_help_panel=DATA),
]

Epochs = Annotated[
    float, typer.Option(help="Times to go through the examples.", rich_help_panel=TRAINING)
]
Steps = Annotated[
    int | None,
    typer.Option(help="Optimiser steps; overrides --epochs.", rich_help_panel=TRAINING),
]
BatchSize = Annotated[int, typer.Option(help="Examples per batch.", rich_help_panel=TRAINING)]
Accumulation = Annotated[
    int, typer.Option(help="Batches per optimiser step.", rich_help_panel=TRAINING)
]
WeightDecay = Annotated[float, typer.Option(help="AdamW's.", rich_help_panel=TRAINING)]
EvalEvery = Annotated[
    int,
    typer.Option(
        help="Steps between validations, each of which saves the state.", rich_help_panel=TRAINING
    ),
]
Patience = Annotated[
    int,
    typer.Option(help="Validations without a new best to stop after.", rich_help_panel=TRAINING),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        help="Longest prompt and target; by default the base's context.", rich_help_panel=TRAINING
    ),
]
Precision = Annotated[
    str, typer.Option(help="auto, float32 or bfloat16.", rich_help_panel=TRAINING)
]
Seed = Annotated[int, typer.Option(help="Random seed.", rich_help_panel=TRAINING)]

SaveAs = Annotated[str, typer.Option(help="float16, bfloat16 or float32, of the saved weights.")]
Device = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:1, ... or balanced: the base spread over all GPUs.",
        rich_help_panel=MACHINE,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="float32, bfloat16 or float16, of the base; auto: bfloat16 on a GPU, else float32; "
        "fast: bfloat16 wherever it is fast.",
        rich_help_panel=MACHINE,
    ),
]
Quantization = Annotated[
    str,
    typer.Option(
        "--base-quantization",
        help="none; 8bit or 4bit, on a GPU; q8_0 or q4_0, as a GGUF file of that type has it.",
        rich_help_panel=MACHINE,
    ),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest output, in tokens per pass.")]
LongestOutput = Annotated[
    int | None,
    typer.Option(
        min=1, help="Longest output, in tokens per pass; by default the task's own, or else 128."
    ),
]

EndpointUrl = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        help="Ask an OpenAI-compatible server, such as http://127.0.0.1:8000/v1. Its key, where it "
        "needs one, is read from the variable ONEPASS_API_KEY.",
        rich_help_panel=SERVER,
    ),
]
Concurrency = Annotated[int, typer.Option(help="Requests at a time.", rich_help_panel=SERVER)]
Timeout = Annotated[float, typer.Option(help="Seconds for an answer.", rich_help_panel=SERVER)]
Retries = Annotated[
    int, typer.Option(help="Times to try again what failed.", rich_help_panel=SERVER)
]
InputPrice = Annotated[
    float | None, typer.Option(help="Of a million tokens read.", rich_help_panel=SERVER)
]
OutputPrice = Annotated[
    float | None, typer.Option(help="Of a million tokens written.", rich_help_panel=SERVER)
]
MaxCost = Annotated[
    float | None,
    typer.Option(help="Stop when so much is spent; needs the prices.", rich_help_panel=SERVER),
]
MaxTotalTokens = Annotated[
    int | None,
    typer.Option(help="Stop when so many tokens are used up, in and out.", rich_help_panel=SERVER),
]


def given(ctx: typer.Context) -> dict[str, str]:
    """The parameters that stand on the command line, each with its spelling: out, --out."""
    return {
        str(parameter.name): max(parameter.opts, key=len)
        for parameter in ctx.command.params
        if (source := ctx.get_parameter_source(str(parameter.name))) is not None
        and source.name == "COMMANDLINE"
    }


def refuse(ctx: typer.Context, names: Iterable[str], why: str) -> None:
    """Refuse options that were given and would be of no effect; why: "says nothing about ..."."""
    spelt = given(ctx)
    for name in names:
        if name in spelt:
            raise OnepassError(f"{spelt[name]} {why}")


def parse_columns(given: Iterable[str] | None) -> dict[str, str]:
    """What --columns names, {ours: theirs}."""
    columns: dict[str, str] = {}
    for item in given or ():
        ours, equals, theirs = item.partition("=")
        if not equals or ours in columns:
            raise OnepassError(
                f"--columns {item!r}: write NAME=COLUMN, each NAME once, as in input=dialogue"
            )
        columns[ours] = theirs
    return columns


def parse_count(text: str) -> int:
    """A number with an optional K, M or G: 40M is 40,000,000."""
    factor = {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:].upper())
    try:
        count = round(float(text[:-1]) * factor) if factor else int(text)
    except (ValueError, OverflowError):
        count = 0
    if count < 1:
        raise OnepassError(f"{text!r} is no count; write one such as 500000, 500K or 40M")
    return count
