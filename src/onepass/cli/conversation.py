"""`onepass run` in conversation: texts typed on a terminal, each answered by a composition."""

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import typer

from onepass.cli.show import note
from onepass.core.errors import OnepassError

if TYPE_CHECKING:
    from onepass.serve import Answer, Engine

COMMANDS = ("/use", "/mode", "/help")
HELP = (
    "/use NAME: another composition; /mode NAME: another mode; without NAME: list them; /help: "
    "this. Ctrl-C ends an answer, or drops what is typed; a second Ctrl-C, or Ctrl-D, ends the "
    "conversation"
)


@dataclass(frozen=True)
class Request:
    """A composition of the set, and the mode it is run in."""

    composition: str
    mode: str

    def __str__(self) -> str:
        return f"{self.composition}, {self.mode}"


def converse(engine: "Engine", request: Request, max_new_tokens: int | None) -> None:
    """Answer the texts typed, until the input ends or Ctrl-C comes twice at the prompt."""
    note(f"{request.composition} ({request.mode}); compositions: {compositions(engine)}\n{HELP}")
    note("Write or paste a conversation; an empty line ends it.")
    lines: list[str] = []

    def heard(line: str) -> None:
        nonlocal request
        if not lines and line.partition(" ")[0] in COMMANDS:
            request = switched(engine, request, line)
        elif line:
            lines.append(line)
        elif lines:
            text = "\n".join(lines)
            lines.clear()
            reply(engine, request, text, max_new_tokens)

    listen(heard, lines.clear)


def listen(heard: Callable[[str], None], dropped: Callable[[], None] = lambda: None) -> None:
    """Take the lines typed, until the input ends or Ctrl-C comes twice in a row.

    dropped: called at the first of two, which `heard` may let through.
    """
    interrupted = False
    while True:
        try:
            for line in typed():
                interrupted = False
                heard(line)
            return
        except KeyboardInterrupt:
            if interrupted:
                raise
            interrupted = True
            dropped()
            note("\nCtrl-C again, or Ctrl-D, ends the conversation")


def typed() -> Iterator[str]:
    """The lines of standard input, then an empty one, which ends the last text too."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    for line in sys.stdin:
        yield line.rstrip()
        if not line.endswith("\n"):
            break  # else a terminal reads on after its end
    yield ""


def reply(
    engine: "Engine",
    request: Request,
    text: str,
    max_new_tokens: int | None,
    figures: "Callable[[Answer], str] | None" = None,
) -> None:
    """Print the answer to a text, on a terminal as it is generated; or print why there is none.

    figures: what to print of the time and tokens it took; by default `summary`.
    """
    live = sys.stdout.isatty()
    take = show if live else lambda piece: None  # always streamed, so that Ctrl-C stops it
    try:
        answer = engine.run(request.composition, text, request.mode, max_new_tokens, take)
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
        note(figures(answer) if figures else summary([answer], engine))


def show(piece: str) -> None:
    typer.echo(piece, nl=False)


def compositions(engine: "Engine") -> str:
    return ", ".join(entry.name for entry in engine.manifest.compositions)


def switched(engine: "Engine", request: Request, line: str) -> Request:
    """The request after a command such as "/mode main"; a mistake is printed, changing nothing."""
    from onepass.serve.modes import MODES, plan

    word, _, name = line.partition(" ")
    name = name.strip()
    try:
        if word == "/help":
            note(HELP)
        elif not name:
            known = ("compositions", compositions(engine)), ("modes", ", ".join(MODES))
            note(": ".join(known[word == "/mode"]))
        else:
            other = replace(request, **{"composition" if word == "/use" else "mode": name})
            plan(engine.manifest, other.composition, other.mode)
            request = other
    except OnepassError as error:
        note(str(error))
    note(f"{request.composition} ({request.mode})")
    return request


def summary(answers: list["Answer"], engine: "Engine") -> str:
    seconds = sum(answer.seconds for answer in answers)
    tokens = sum(answer.tokens for answer in answers)
    cached = sum(answer.cached_tokens for answer in answers)
    asked = sum(answer.prompt_tokens for answer in answers)
    return (
        f"{tokens} tokens in {seconds:.2f} s: {tokens / seconds:.0f} tokens/s; "
        f"{cached} of {asked} prompt tokens were cached; peak memory {memory(engine)}"
    )


def memory(engine: "Engine") -> str:
    peak = engine.peak_memory()
    return "unknown" if peak is None else f"{peak / 2**20:.0f} MiB"
