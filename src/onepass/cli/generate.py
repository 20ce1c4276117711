"""`onepass generate`: a composition, or an adapter, on the user's own text."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onepass.api.outputs import check_writable
from onepass.cli import options as o
from onepass.cli.show import note
from onepass.core.errors import OnepassError
from onepass.core.files import to_jsonl, write_text
from onepass.tasks.corpora.files import ENDINGS
from onepass.tasks.data import Text, texts_of

STDIN = Path("/dev/stdin")
FAILED = 1


class Format(StrEnum):
    auto = "auto"
    text = "text"
    lines = "lines"
    jsonl = "jsonl"


def generate(
    ctx: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="COMPOSITION|ADAPTER",
            help="A folder that `calibrate`, `train` or `merge` wrote, any adapter in PEFT's "
            "format, or an adapter's hub name.",
        ),
    ],
    input: Annotated[
        str, typer.Option("--input", "-i", help="A UTF-8 file, or - for standard input.")
    ],
    format: Annotated[
        Format,
        typer.Option(
            help="What the input is: one text, a text per line, or rows, which give JSON lines. "
            "auto: rows for a name in .jsonl, .json, .csv, .tsv or .parquet, otherwise text."
        ),
    ] = Format.auto,
    columns: o.Columns = None,
    task: o.OneTask = None,
    tasks: o.TasksFile = None,
    out: Annotated[str, typer.Option("--out", "-o", help="A file, or - to print.")] = "-",
    model: o.FoundModel = None,
    max_new_tokens: o.LongestOutput = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts at a time.")] = 64,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    quantization: o.Quantization = "none",
    endpoint: o.EndpointUrl = None,
    served: Annotated[
        list[str] | None,
        typer.Option(help="The server's name for each pass.", rich_help_panel=o.SERVER),
    ] = None,
    concurrency: o.Concurrency = 4,
    timeout: o.Timeout = 60.0,
    retries: o.Retries = 5,
) -> None:
    """Run a composition, or an adapter, on your own text.

    A conversation is best written with a turn per line, "Name: what is said". One too long for
    the base loses its oldest turns, with a note. Rows give JSON lines of id and prediction, as
    `onepass score` reads them.

    With --endpoint a server does it, as set up by `onepass export --format vllm`, or any that
    knows each pass by a model name. It is not asked to shorten texts: one that it refuses
    is noted, and its output is empty.

    \b
    Examples:
      onepass generate COMPOSITION --input conversation.txt
      onepass generate ADAPTER --task summarize --input conversation.txt
      onepass generate COMPOSITION --input test.jsonl --out predictions.jsonl
      onepass generate COMPOSITION --input test.jsonl
          --endpoint http://127.0.0.1:8000/v1 --served NAME
      printf 'Ana: Tea at five?\\nBen: Yes!' | onepass generate COMPOSITION -i -
    """
    if endpoint is None:
        o.refuse(
            ctx, ["served", "concurrency", "timeout", "retries"],
            "is about a server; give its --endpoint, too",
        )  # fmt: skip
    else:
        o.refuse(
            ctx, ["model", "batch_size", "device", "dtype", "quantization", "task", "tasks"],
            "says nothing about a server, which has its own model and machine",
        )  # fmt: skip
        if not served:
            raise OnepassError("name the model of each pass on the server with --served")
    format = format_of(input, format)
    if out != "-":
        check_writable(Path(out), folder=False)
    texts = read_input(input, format, columns)
    inputs = [text.text for text in texts]

    from onepass.api.use import load, outputs, served_outputs
    from onepass.model.progress import counting

    with counting("generating", len(texts)) as progress:
        if endpoint is not None and served:
            done = served_outputs(
                load(what), inputs, endpoint, served, concurrency=concurrency, timeout=timeout,
                retries=retries, max_new_tokens=max_new_tokens, progress=progress,
            )  # fmt: skip
        else:
            done = outputs(
                what, inputs, task=task, tasks=tasks, base=model, max_new_tokens=max_new_tokens,
                batch_size=batch_size, device=device, dtype=dtype, quantization=quantization,
                progress=progress,
            )  # fmt: skip
    for text, notice in zip(texts, done.notices, strict=True):
        if notice:
            note(f"note: {text.id}: {notice}")
    write_output(out, format, texts, done.texts)
    note(
        f"{len(texts)} {'text' if len(texts) == 1 else 'texts'}, {done.tokens} tokens in "
        f"{done.seconds:.1f} s: {done.tokens_per_second:.0f} tokens/s"
    )
    if done.failed:
        note(f"{done.failed} of {len(texts)} had no answer; their output is empty")
        raise typer.Exit(FAILED)


def format_of(input: str, format: Format) -> Format:
    """What auto stands for."""
    if format is not Format.auto:
        return format
    path = Path(input)
    rows = path.suffix.lower() in ENDINGS or path.is_dir()
    return Format.jsonl if rows else Format.text


def read_input(input: str, format: Format, columns: list[str] | None) -> list[Text]:
    """The texts of a file, a folder, or (-) standard input; `OnepassError` if there is none."""
    if columns and format is not Format.jsonl:
        raise OnepassError(f"--columns is about rows; {input} is read as --format {format}")
    return texts_of(STDIN if input == "-" else Path(input), o.parse_columns(columns), format)


def write_output(out: str, format: Format, inputs: Sequence[Text], outputs: Sequence[str]) -> None:
    """Print the outputs or write them to a file, in the format of the input."""
    if format is Format.jsonl:
        pairs = zip(inputs, outputs, strict=True)
        text = to_jsonl({"id": i.id, "prediction": o} for i, o in pairs)
    elif format is Format.lines:  # one line in gives one line out, whatever the model says
        text = "".join(f"{' '.join(output.split())}\n" for output in outputs)
    else:
        text = "".join(f"{output}\n" for output in outputs)
    if out == "-":
        sys.stdout.write(text)
    else:
        write_text(out, text)
