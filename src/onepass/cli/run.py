"""`onepass run`: a device set on llama.cpp."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onepass.api.outputs import check_writable
from onepass.cli.chat import read_along
from onepass.cli.conversation import Request, converse, memory, summary
from onepass.cli.generate import Format, format_of, read_input, write_output
from onepass.cli.options import MACHINE, Columns, LongestOutput
from onepass.cli.show import note, print_table
from onepass.core.errors import OnepassError
from onepass.core.files import to_jsonl, write_text
from onepass.tasks.data import Text

if TYPE_CHECKING:
    from onepass.serve import Answer, Engine


def run(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `pack` or `export --format gguf` wrote.")
    ],
    composition: Annotated[
        list[str] | None,
        typer.Option("--composition", "-c", help="Names in the set; by default the first."),
    ] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="zero-shot, main, multi-step or composed (the default); or several."),
    ] = None,
    talk: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Read a conversation as it is typed, to do what is then asked of it at once.",
        ),
    ] = False,
    input: Annotated[
        str | None,
        typer.Option("--input", "-i", help="A UTF-8 file, or - for standard input."),
    ] = None,
    format: Annotated[
        Format, typer.Option(help="Of the input and output, as for `onepass generate`.")
    ] = Format.auto,
    columns: Columns = None,
    out: Annotated[str, typer.Option("--out", "-o", help="A file, or - to print.")] = "-",
    max_new_tokens: LongestOutput = None,
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.gguf",
            help="The base of a set that refers to it (pack --link), if it is not where it was.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Limit on the tokens of prompt and answer; by default the base's, at most 4096.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the engine.", rich_help_panel=MACHINE)
    ] = None,
    fused: Annotated[
        bool,
        typer.Option(
            "--fused/--parts",
            help="Put each composition together as one adapter, which is faster, or not.",
            rich_help_panel=MACHINE,
        ),
    ] = True,
) -> None:
    """Run a device set on llama.cpp: on a file, or in conversation on a terminal.

    The compositions of a set are chosen per request by the scales of its adapters; nothing is
    loaded twice. Several modes or compositions are shown side by side, with time and tokens, no
    prompt being cached. With --out FILE or --format jsonl their answers are JSON lines of id,
    composition, mode and prediction. In conversation an answer is shown as it is generated, and
    Ctrl-C ends it.

    With --chat each line is a turn of one conversation, read as it comes. Activated compositions
    then read only what is asked of it: /do NAME, or in words, "summarize in Spanish".

    \b
    Examples:
      onepass run device
      onepass run device --chat
      onepass run device --input conversation.txt
      onepass run device --input conversation.txt
          --mode zero-shot main multi-step composed
      onepass run device --composition sum-es sum-fr --input test.jsonl
          --out predictions.jsonl
    """
    from onepass.export.manifest import read_set
    from onepass.serve import Engine
    from onepass.serve.activated import reader
    from onepass.serve.modes import plan

    # Without checksums: the engine compares them, before it loads.
    manifest = read_set(folder, check=False, base=base)
    several = len({*(composition or [])}) > 1 or len({*(mode or [])}) > 1
    if input is None:
        if not sys.stdin.isatty() and not talk:
            raise OnepassError("give a text with --input FILE, or --input - for standard input")
        if out != "-" or format is not Format.auto:
            raise OnepassError("--out and --format are of texts; give these with --input FILE")
        if several:
            raise OnepassError(
                "a conversation is in one --composition and one --mode, and /use and /mode change "
                "it; give texts to compare several on with --input FILE"
            )
    elif talk:
        raise OnepassError("--chat reads what is typed; leave out --input")
    as_rows = several and (out != "-" or format is Format.jsonl)
    if as_rows and format in (Format.text, Format.lines):
        raise OnepassError(
            f"--format {format} cannot tell in --out {out} which mode or composition an answer is "
            "of; give --format jsonl, or one mode and composition"
        )
    if out != "-":
        check_writable(Path(out), folder=False)
    format = format if input is None else format_of(input, format)
    texts = [] if input is None else read_input(input, format, columns)
    names = composition or [(reader(manifest) if talk else manifest.compositions[0]).name]
    modes = mode or ["composed"]
    requests = list(dict.fromkeys(Request(name, each) for name in names for each in modes))
    for request in requests:
        plan(manifest, request.composition, request.mode)
    one = names if fused and "composed" in modes else []
    options: Any = {"base": base, "context": context, "threads": threads}
    with Engine(folder, fused=one, cache=not several, **options) as engine:
        if input is None:
            (read_along if talk else converse)(engine, requests[0], max_new_tokens)
        elif several:
            # The first run also reads the files, which would distort the first figure.
            engine.run(requests[0].composition, "Hello.", requests[0].mode, 1)
            done = {each: run_all(engine, each, texts, max_new_tokens) for each in requests}
            if as_rows:
                write_rows(out, texts, done)
            print_figures(done, err=as_rows)
            if not as_rows:
                print_answers(texts, done)
            note(f"one engine ran all of them; its peak memory is {memory(engine)}")
        else:
            answers = run_all(engine, requests[0], texts, max_new_tokens)
            write_output(out, format, texts, [answer.text for answer in answers])
            note(summary(answers, engine))


def run_all(
    engine: "Engine", request: Request, texts: list[Text], max_new_tokens: int | None
) -> list["Answer"]:
    """The answer to each text; prints its notice, if any."""
    answers = []
    from onepass.model.progress import counting

    with counting(str(request), len(texts)) as progress:
        for text in texts:
            answers.append(engine.run(request.composition, text.text, request.mode, max_new_tokens))
            progress(1)
    for text, answer in zip(texts, answers, strict=True):
        if answer.notice:
            note(f"note: {text.id}: {answer.notice}")
    return answers


Answers = Mapping[Request, Sequence["Answer"]]
"""For each request the answers to all texts."""


def write_rows(out: str, texts: list[Text], done: Answers) -> None:
    """Write a JSON line for each request and text."""
    rows = to_jsonl(
        {
            "id": text.id, "composition": request.composition, "mode": request.mode,
            "prediction": answer.text,
        }
        for request, answers in done.items()
        for text, answer in zip(texts, answers, strict=True)
    )  # fmt: skip
    if out == "-":
        sys.stdout.write(rows)
    else:
        write_text(out, rows)


def print_figures(done: Answers, err: bool) -> None:
    """Time and tokens of each request; tokens/s includes reading the prompt."""
    rows = []
    for request, answers in done.items():
        seconds = sum(answer.seconds for answer in answers)
        asked = sum(answer.prompt_tokens for answer in answers)
        tokens = sum(answer.tokens for answer in answers)
        each, rate = f"{seconds / len(answers):.3f}", f"{tokens / seconds:.0f}"
        rows.append((str(request), each, str(asked), str(tokens), rate))
    header = ("composition, mode", "seconds per text", "prompt tokens", "tokens", "tokens/s")
    print_table(header, rows, numbers=True, err=err)


def print_answers(texts: list[Text], done: Answers) -> None:
    """Every text's answers side by side."""
    for number, text in enumerate(texts):
        typer.echo(f"\n{text.id}")
        header = ("composition, mode", "answer")
        print_table(header, [(str(each), answers[number].text) for each, answers in done.items()])
