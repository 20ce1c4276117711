"""The command `onepass`: the list of its commands, and how errors are shown.

To add a command `NAME`, add a row to `COMMANDS` and write the function `NAME` (dashes as
underscores) in `onepass/cli/NAME.py`, with typer's annotations; a command with sub-commands is a
`typer.Typer` of that name instead, made by `build_group`, and its sub-command `SUB` is the function
`NAME_SUB` in `onepass/cli/NAME_SUB.py`. A command's module is imported only when it is run.
"""

import errno
import importlib
import inspect
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from onepass import __version__
from onepass.core.errors import OnepassError, print_as_notes

GONE = 1  # broken pipe, as with `| head`; typer's status for it
USER_ERROR = 2  # as for a wrong option
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # errors of a write


@dataclass(frozen=True)
class Entry:
    """One line of `onepass --help`: a command, the panel it is shown in, what it does."""

    name: str
    panel: str
    summary: str


START, MAKE, COMPARE = "Start here", "Make", "Compare"

COMMANDS = (
    Entry("demo", START, "Compose two tasks in one pass, offline, and compare the methods."),
    Entry("ls", START, "List the known tasks, methods, merges or metrics."),
    Entry("inspect", START, "Describe adapters, and how well they would merge."),
    Entry("generate", START, "Run a composition on your own text."),
    Entry("run", START, "Run what `pack` wrote on llama.cpp: on a file, or in conversation."),
    Entry("serve", START, "Serve compositions to programs that speak OpenAI's API."),
    Entry("data", MAKE, "Export examples as JSON lines; describe a corpus."),
    Entry("pretrain", MAKE, "Train the embedded tiny base from scratch."),
    Entry("train", MAKE, "Train an adapter for one task."),
    Entry("merge", MAKE, "Merge adapters into one, by arithmetic alone."),
    Entry("calibrate", MAKE, "Train the calibration of a compositional task: a composition."),
    Entry("export", MAKE, "Write a composition for other runtimes: PEFT, llama.cpp, MLX, ..."),
    Entry("pack", MAKE, "Write, or verify, the set of files that a device holds."),
    Entry("score", COMPARE, "Score stored predictions."),
    Entry("bench", COMPARE, "Run the cells of a recipe that are not yet done."),
    Entry("experiment", COMPARE, "Run a command line of the paper's program, as it stands."),
    Entry("judge", COMPARE, "Have a language model judge the predictions of finished runs."),
    Entry("report", COMPARE, "Print the tables of finished runs."),
    Entry("cost", COMPARE, "Count the parameters and bytes of each method for a model."),
)


# A lone dash, or a negative number, is a value however much it looks like an option.
_VALUE = re.compile(r"-$|-\.?\d")


class ListsCommand(TyperCommand):
    """An option that may be repeated also takes its values in a row: `--adapters A B`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        many = {
            spelling
            for parameter in self.params
            if getattr(parameter, "multiple", False)
            for spelling in parameter.opts
        }
        spread: list[str] = []
        option = ""
        for argument in args:
            if argument.startswith("-") and not _VALUE.match(argument):
                option = argument if argument in many else ""
            elif option and spread[-1] != option:
                spread.append(option)
            spread.append(argument)
        return super().parse_args(ctx, spread)


def load_command(name: str) -> Any:
    """Import the module of the command `name`; its command, ready to parse arguments."""
    identifier = name.replace("-", "_")
    module = importlib.import_module(f"onepass.cli.{identifier}")
    command = getattr(module, identifier)
    if not isinstance(command, typer.Typer):
        single = typer.Typer(add_completion=False)
        single.command(name, cls=ListsCommand)(command)
        command = single
    loaded = typer.main.get_command(command)
    loaded.help = _unwrapped(loaded.help or "")
    return loaded


def _unwrapped(text: str) -> str:
    """A docstring whose paragraphs are one line each, so that they fill any terminal.

    A paragraph that starts with a backspace keeps its lines, as everywhere in click.
    """
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(p if p.startswith("\b") else p.replace("\n", " ") for p in paragraphs)


class LazyGroup(TyperGroup):
    """Lists commands without importing them; the one place where a user's error is shown."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, known, rest = super().resolve_command(ctx, args)
        prefix = f"{ctx.info_name}-" if ctx.parent else ""
        return name, known and load_command(f"{prefix}{name}"), rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except OnepassError as error:
            _complain("error", str(error))
            raise typer.Exit(USER_ERROR) from error
        except KeyboardInterrupt as interrupt:
            # Whoever was interrupted may say what it kept: KeyboardInterrupt("state is in ...").
            _complain("interrupted", str(interrupt))
            raise typer.Exit(INTERRUPTED) from interrupt


def _complain(kind: str, message: str) -> None:
    # Text, not markup: a message may hold [brackets]; soft wrap keeps paths in one piece.
    line = Text.assemble((kind, "bold red"), f": {message}" if message else "")
    Console(stderr=True).print(line, soft_wrap=True, highlight=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onepass {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """Several tasks at once from one small on-device language model, in one pass."""


def _placeholder() -> None:
    """Stands for a command in the list; `LazyGroup.resolve_command` puts the real one in place."""


def build_group(callback: Callable[..., None], entries: Sequence[Entry]) -> typer.Typer:
    """A command with those of `entries` below it, none of them imported; helped by `callback`."""
    group = typer.Typer(
        cls=LazyGroup,
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.callback()(callback)
    for entry in entries:
        group.command(entry.name, help=entry.summary, rich_help_panel=entry.panel)(_placeholder)
    return group


def build_app() -> typer.Typer:
    """The typer application with every command of `COMMANDS`."""
    return build_group(_root, COMMANDS)


def main(args: list[str] | None = None) -> NoReturn:
    """Run `onepass` with `args` (default: those of the process) and exit.

    Exit status: 0 done; 1 a bug, with its traceback, or a broken pipe, silently; 2 a mistake in
    options or input, or a file or an output that cannot be used; 130 Ctrl-C.
    """
    print_as_notes()
    _prepare_streams()
    try:
        try:
            # Not `app()`, whose tracebacks print local variables: here, whole tensors.
            typer.main.get_command(build_app()).main(args=args, prog_name="onepass")
        finally:
            sys.stdout.flush()
    except OSError as error:
        sys.exit(_unusable(error))
    sys.exit(0)


def _prepare_streams() -> None:
    """Have any text printed: a pipe or a file gets UTF-8, as every file here; a terminal its own
    encoding, with escapes for what it cannot show.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        encoding = sys.stdout.encoding if sys.stdout.isatty() else "utf-8"
        sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")


def _unusable(error: OSError) -> int:
    """Report an output or a file that the system refused; the exit status."""
    try:
        sys.stdout.flush()
    except OSError:
        # Discard the rest of the buffer, which the interpreter would otherwise flush at exit
        # (https://docs.python.org/3/library/signal.html#note-on-sigpipe).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        return GONE
    # onepass.core.files names the files it writes: an error without a name is about the output.
    if error.filename is None and error.errno not in FULL:
        raise error
    _complain("error", f"{error.filename or 'cannot write the output'}: {error.strerror}")
    return USER_ERROR
