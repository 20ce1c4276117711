"""`onepass run`: a device set on llama.cpp."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onepass.cli.generate import STDIN, Format, Text, read_input, write_output
from onepass.cli.options import MACHINE, MaxNewTokens
from onepass.cli.outputs import check_writable
from onepass.cli.show import counting, note, print_table
from onepass.core.errors import OnepassError

if TYPE_CHECKING:
    from onepass.device import Answer, Engine

HELP = "/use NAME: another composition; /mode NAME: another mode; Ctrl-C ends an answer, Ctrl-D all"


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
    input: Annotated[
        str | None,
        typer.Option("--input", "-i", help="A UTF-8 file, or - for standard input."),
    ] = None,
    format: Annotated[
        Format, typer.Option(help="Of the input and output, as for `onepass generate`.")
    ] = Format.auto,
    out: Annotated[str, typer.Option("--out", "-o", help="A file, or - to print.")] = "-",
    max_new_tokens: MaxNewTokens = 128,
    context: Annotated[
        int | None,
        typer.Option(
            help="Most tokens of prompt and answer; by default the base's, 4096 at most.",
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
    loaded twice. Several modes or compositions are shown side by side, with what they took.
    In conversation an answer is shown as it is generated, and Ctrl-C ends it.

    \b
    Examples:
      onepass run device
      onepass run device --input conversation.txt
      onepass run device --input conversation.txt --mode zero-shot main multi-step composed
      onepass run device --composition sum-es sum-fr --input test.jsonl --out predictions.jsonl
    """
    from onepass.device import Engine
    from onepass.device.modes import plan
    from onepass.export.manifest import read_set

    if out != "-":
        check_writable(Path(out), folder=False)
    if input is None and not sys.stdin.isatty():
        raise OnepassError("give a text with --input FILE, or --input - for standard input")
    if input is not None and format is Format.auto:
        format = Format.jsonl if input.endswith(".jsonl") else Format.text
    texts = [] if input is None else read_input(STDIN if input == "-" else Path(input), format)
    manifest = read_set(folder)
    entries = [manifest.composition(name) for name in composition or []]
    entries = entries or [manifest.compositions[0]]
    modes = mode or ["composed"]
    for entry in entries:
        for each in modes:
            plan(entry, each)
    ways = [Way(entry.name, each) for entry in entries for each in modes]
    one = [entry.name for entry in entries] if fused and "composed" in modes else []
    with Engine(folder, context=context, threads=threads, fused=one, check=False) as engine:
        if input is None:
            converse(engine, ways[0], max_new_tokens)
        elif len(ways) == 1:
            answers = run_all(engine, ways[0], texts, max_new_tokens)
            write_output(out, format, texts, [answer.text for answer in answers])
            note(summary(answers, engine))
        else:
            compare(engine, ways, texts, max_new_tokens)


@dataclass(frozen=True)
class Way:
    """A composition of the set, and the mode it is run in."""

    composition: str
    mode: str


def run_all(engine: "Engine", way: Way, texts: list[Text], most: int) -> list["Answer"]:
    """The answer to each text, its notice told."""
    answers = []
    with counting(f"{way.composition}, {way.mode}", len(texts)) as progress:
        for text in texts:
            answers.append(engine.run(way.composition, text.text, way.mode, most))
            progress(1)
    for text, answer in zip(texts, answers, strict=True):
        if answer.notice:
            note(f"note: {text.id}: {answer.notice}")
    return answers


def compare(engine: "Engine", ways: list[Way], texts: list[Text], most: int) -> None:
    """A row of what it took per composition and mode, then every text's answers side by side."""
    done = {way: run_all(engine, way, texts, most) for way in ways}
    rows = []
    for way, answers in done.items():
        seconds = sum(answer.seconds for answer in answers)
        tokens = sum(answer.tokens for answer in answers)
        each, rate = f"{seconds / len(answers):.3f}", f"{tokens / seconds:.0f}"
        rows.append((f"{way.composition}, {way.mode}", each, str(tokens), rate, memory(engine)))
    header = ("composition, mode", "seconds per text", "tokens", "tokens/s", "peak memory")
    print_table(header, rows, numbers=True)
    for number, text in enumerate(texts):
        typer.echo(f"\n{text.id}")
        print_table(
            ("composition, mode", "answer"),
            [(f"{way.composition}, {way.mode}", a[number].text) for way, a in done.items()],
        )


def converse(engine: "Engine", way: Way, most: int) -> None:
    """Ask for texts and answer them, until the input ends; Ctrl-C ends an answer only.

    On a terminal an answer is shown as it comes.
    """
    take = show if sys.stdout.isatty() else lambda piece: None
    names = ", ".join(entry.name for entry in engine.manifest.compositions)
    note(f"{way.composition} ({way.mode}); compositions: {names}\n{HELP}")
    note("Write or paste a conversation; an empty line ends it.")
    lines: list[str] = []
    for line in map(str.rstrip, sys.stdin):
        if line.startswith("/") and not lines:
            way = switched(engine, way, line)
        elif line:
            lines.append(line)
        elif lines:
            text, lines = "\n".join(lines), []
            try:
                answer = engine.run(way.composition, text, way.mode, most, take)
            except KeyboardInterrupt:
                note("\ninterrupted")
                continue
            typer.echo("\n" if take is show else f"{answer.text}\n")
            note(summary([answer], engine))


def show(piece: str) -> None:
    typer.echo(piece, nl=False)


def switched(engine: "Engine", way: Way, line: str) -> Way:
    """The way after a command such as "/mode main"; a mistake is told and changes nothing."""
    from onepass.device.modes import plan

    word, _, name = line.partition(" ")
    try:
        if word == "/use":
            engine.manifest.composition(name.strip())
            way = Way(name.strip(), way.mode)
        elif word == "/mode":
            plan(engine.manifest.composition(way.composition), name.strip())
            way = Way(way.composition, name.strip())
        else:
            raise OnepassError(f"{word} is no command; {HELP}")
    except OnepassError as error:
        note(str(error))
    note(f"{way.composition} ({way.mode})")
    return way


def summary(answers: list["Answer"], engine: "Engine") -> str:
    seconds = sum(answer.seconds for answer in answers)
    tokens = sum(answer.tokens for answer in answers)
    cached = sum(answer.cached_tokens for answer in answers)
    asked = sum(answer.prompt_tokens for answer in answers)
    return (
        f"{tokens} tokens in {seconds:.2f} s: {tokens / seconds:.0f} tokens/s; "
        f"{cached} of {asked} prompt tokens were known; peak memory {memory(engine)}"
    )


def memory(engine: "Engine") -> str:
    peak = engine.peak_memory()
    return "unknown" if peak is None else f"{peak / 2**20:.0f} MiB"
