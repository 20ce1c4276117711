"""`onepass run`: a device set on llama.cpp."""

import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onepass.api.outputs import check_writable
from onepass.cli.generate import Format, format_of, read_input, write_output
from onepass.cli.options import MACHINE, Columns, MaxNewTokens
from onepass.cli.show import counting, note, print_table
from onepass.core.errors import OnepassError
from onepass.core.files import to_jsonl, write_text
from onepass.tasks.data import Text

if TYPE_CHECKING:
    from onepass.export.manifest import BaseFile
    from onepass.serve import Answer, Engine

COMMANDS = ("/use", "/mode", "/help")
HELP = (
    "/use NAME: another composition; /mode NAME: another mode; without a NAME: which there are; "
    "/help: this. Ctrl-C ends an answer, else drops what is typed; Ctrl-C again after that, or "
    "Ctrl-D, ends the conversation"
)


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
    columns: Columns = None,
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
    loaded twice. Several modes or compositions are shown side by side, with what they took when
    each reads every text anew. With --out FILE or --format jsonl their answers are JSON lines of
    id, composition, mode and prediction. In conversation an answer is shown as it is generated,
    and Ctrl-C ends it.

    \b
    Examples:
      onepass run device
      onepass run device --input conversation.txt
      onepass run device --input conversation.txt --mode zero-shot main multi-step composed
      onepass run device --composition sum-es sum-fr --input test.jsonl --out predictions.jsonl
    """
    from onepass.export.manifest import read_set
    from onepass.serve import Engine
    from onepass.serve.modes import plan

    manifest = read_set(folder, check=False)  # the engine compares checksums, before it loads
    cores = os.cpu_count() or 1
    if threads is not None and threads > cores:
        raise OnepassError(
            f"--threads is {threads}, but this machine has {cores} cores; give {cores} at most"
        )
    several = len({*(composition or [])}) > 1 or len({*(mode or [])}) > 1
    if input is None:
        if not sys.stdin.isatty():
            raise OnepassError("give a text with --input FILE, or --input - for standard input")
        if out != "-" or format is not Format.auto:
            raise OnepassError("--out and --format are of texts; give these with --input FILE")
        if several:
            raise OnepassError(
                "a conversation is in one --composition and one --mode, and /use and /mode change "
                "it; give texts to compare several on with --input FILE"
            )
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
    names = composition or [manifest.compositions[0].name]
    modes = mode or ["composed"]
    ways = list(dict.fromkeys(Way(name, each) for name in names for each in modes))
    for way in ways:
        plan(manifest, way.composition, way.mode)
    check_room(manifest.base, context, max_new_tokens)
    one = names if fused and "composed" in modes else []
    with Engine(folder, context=context, threads=threads, fused=one, cache=not several) as engine:
        if input is None:
            converse(engine, ways[0], max_new_tokens)
        elif several:
            done = run_ways(engine, ways, texts, max_new_tokens)
            if as_rows:
                write_rows(out, texts, done)
            print_figures(done, err=as_rows)
            if not as_rows:
                print_answers(texts, done)
            note(f"one engine ran all of them; its peak memory is {memory(engine)}")
        else:
            answers = run_all(engine, ways[0], texts, max_new_tokens)
            write_output(out, format, texts, [answer.text for answer in answers])
            note(summary(answers, engine))


@dataclass(frozen=True)
class Way:
    """A composition of the set, and the mode it is run in."""

    composition: str
    mode: str

    def __str__(self) -> str:
        return f"{self.composition}, {self.mode}"


def check_room(base: "BaseFile", context: int | None, most: int) -> None:
    """Refuse options that leave no token for a prompt, as the user has typed them."""
    from onepass.serve.engine import CONTEXT

    if context is None:
        room, found = min(base.context, CONTEXT), "the context is"
    else:
        room, found = context, "--context is"
    if not 1 <= room <= base.context:
        raise OnepassError(
            f"--context is {room}; base {base.name} takes 1 to {base.context} tokens"
        )
    if most >= room:
        raise OnepassError(
            f"--max-new-tokens is {most} and {found} {room}, which leaves no room for a text; "
            f"give --max-new-tokens below {room}"
        )


def run_all(engine: "Engine", way: Way, texts: list[Text], most: int) -> list["Answer"]:
    """The answer to each text, its notice told."""
    answers = []
    with counting(str(way), len(texts)) as progress:
        for text in texts:
            answers.append(engine.run(way.composition, text.text, way.mode, most))
            progress(1)
    for text, answer in zip(texts, answers, strict=True):
        if answer.notice:
            note(f"note: {text.id}: {answer.notice}")
    return answers


Done = Mapping[Way, Sequence["Answer"]]
"""The answers to all texts, by way."""


def run_ways(engine: "Engine", ways: list[Way], texts: list[Text], most: int) -> Done:
    """Each way's answers to all texts; that it is done is told, for there may be no terminal."""
    # The first request pays for reading the files, which no way should be charged with.
    engine.run(ways[0].composition, "Hello.", ways[0].mode, 1)
    done: dict[Way, list[Answer]] = {}
    for way in ways:
        done[way] = run_all(engine, way, texts, most)
        seconds = sum(answer.seconds for answer in done[way])
        note(f"{way}: {len(texts)} {'text' if len(texts) == 1 else 'texts'} in {seconds:.2f} s")
    return done


def write_rows(out: str, texts: list[Text], done: Done) -> None:
    """Print a JSON line per way and text, or write them to a file."""
    rows = to_jsonl(
        {"id": text.id, "composition": way.composition, "mode": way.mode, "prediction": answer.text}
        for way, answers in done.items()
        for text, answer in zip(texts, answers, strict=True)
    )
    if out == "-":
        sys.stdout.write(rows)
    else:
        write_text(out, rows)


def print_figures(done: Done, err: bool) -> None:
    """A row of what it took per way; a speed counts the seconds of reading, too."""
    rows = []
    for way, answers in done.items():
        seconds = sum(answer.seconds for answer in answers)
        asked = sum(answer.prompt_tokens for answer in answers)
        tokens = sum(answer.tokens for answer in answers)
        each, rate = f"{seconds / len(answers):.3f}", f"{tokens / seconds:.0f}"
        rows.append((str(way), each, str(asked), str(tokens), rate))
    header = ("composition, mode", "seconds per text", "prompt tokens", "tokens", "tokens/s")
    print_table(header, rows, numbers=True, err=err)


def print_answers(texts: list[Text], done: Done) -> None:
    """Every text's answers side by side."""
    for number, text in enumerate(texts):
        typer.echo(f"\n{text.id}")
        header = ("composition, mode", "answer")
        print_table(header, [(str(way), answers[number].text) for way, answers in done.items()])


def converse(engine: "Engine", way: Way, most: int) -> None:
    """Ask for texts and answer them, until the input ends, or Ctrl-C comes twice at the prompt."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # to be told of, when the text is whole
    note(f"{way.composition} ({way.mode}); compositions: {compositions(engine)}\n{HELP}")
    note("Write or paste a conversation; an empty line ends it.")
    dropped = False
    while True:
        lines: list[str] = []
        try:
            for line in typed():
                dropped = False
                if not lines and line.partition(" ")[0] in COMMANDS:
                    way = switched(engine, way, line)
                elif line:
                    lines.append(line)
                elif lines:
                    reply(engine, way, "\n".join(lines), most)
                    lines = []
            return
        except KeyboardInterrupt:
            if dropped:
                raise
            dropped = True
            note("\nCtrl-C again, or Ctrl-D, ends the conversation")


def typed() -> Iterator[str]:
    """The lines of standard input, and an empty one behind the last, which ends its text too."""
    for line in sys.stdin:
        yield line.rstrip()
        if not line.endswith("\n"):
            break  # a terminal would go on to read behind its end
    yield ""


def reply(engine: "Engine", way: Way, text: str, most: int) -> None:
    """Print the answer to a text, on a terminal as it comes; or tell why there is none."""
    live = sys.stdout.isatty()
    take = show if live else lambda piece: None  # even unseen, for a stream can be interrupted
    try:
        check_utf8(text)
        answer = engine.run(way.composition, text, way.mode, most, take)
    except KeyboardInterrupt:
        note("\ninterrupted")
    except OnepassError as error:
        if engine.closed:
            raise
        note(f"\nerror: {error}")
    else:
        typer.echo("\n" if live else f"{answer.text}\n")
        if answer.notice:
            note(f"note: {answer.notice}")
        note(summary([answer], engine))


def check_utf8(text: str) -> None:
    """Refuse what was read with surrogates for bytes that are no UTF-8."""
    for line in text.split("\n"):
        try:
            line.encode()
        except UnicodeEncodeError as error:
            raise OnepassError(f"this line is not UTF-8: {line!a}; write the text again") from error


def show(piece: str) -> None:
    typer.echo(piece, nl=False)


def compositions(engine: "Engine") -> str:
    return ", ".join(entry.name for entry in engine.manifest.compositions)


def switched(engine: "Engine", way: Way, line: str) -> Way:
    """The way after a command such as "/mode main"; a mistake is told and changes nothing."""
    from onepass.serve.modes import MODES, plan

    word, _, name = line.partition(" ")
    name = name.strip()
    try:
        if word == "/help":
            note(HELP)
        elif word == "/use" and not name:
            note(f"compositions: {compositions(engine)}")
        elif word == "/mode" and not name:
            note(f"modes: {', '.join(MODES)}")
        else:
            other = Way(name, way.mode) if word == "/use" else Way(way.composition, name)
            plan(engine.manifest, other.composition, other.mode)
            way = other
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
