"""`onepass run --chat`: one conversation, read as it comes, and whatever is then asked of it.

Each line is a turn. The bare base reads it at once, so that an activated composition has no more to
read than its instruction.
"""

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from onepass.cli.conversation import Request, listen, reply, switched
from onepass.cli.show import note, print_table
from onepass.core.errors import OnepassError
from onepass.core.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onepass.export.manifest import CompositionEntry
    from onepass.serve import Answer, Engine

HELP = """\
Each line is a turn of the conversation, and is read as it comes. Then ask:
  /do NAME   what to do with it, by name or in words; /do: the same again
  /list      what there is to do
  /mode M    composed, main, multi-step or zero-shot
  /back      take back the last turn
  /new       begin another conversation
  /help      this
A line that only says what to do, as in "summarize in Spanish", asks, too.
Ctrl-C ends an answer; twice, or Ctrl-D, ends the conversation."""
_EMPTY = frozenset(
    ["a", "an", "and", "conversation", "it", "of", "please", "text", "the", "this", "to", "tone"]
)
"""Words that tell no composition from another."""


@dataclass
class Talk:
    """A conversation, and what it has taken to read it since the last answer."""

    turns: list[str] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    @property
    def text(self) -> str:
        return "\n".join(self.turns)

    def read(self, engine: "Engine", max_new_tokens: int | None) -> None:
        if self.turns:
            reading = engine.read(self.text, max_new_tokens=max_new_tokens)
            self.tokens += reading.prompt_tokens - reading.cached_tokens
            self.seconds += reading.seconds

    def figures(self, answer: "Answer") -> str:
        """What an answer took, in lines of at most 80 characters."""
        said = (
            f"{answer.first_seconds:.2f} s to the first token, {answer.seconds:.2f} s in all; "
            f"read {answer.prompt_tokens - answer.cached_tokens:,} tokens, "
            f"{answer.cached_tokens:,} cached"
        )
        if self.tokens:
            said += f"\nread as it came: {self.tokens:,} tokens in {self.seconds:.2f} s"
        self.tokens, self.seconds = 0, 0.0
        return said


def read_along(engine: "Engine", request: Request, max_new_tokens: int | None) -> None:
    """Read turns and answer requests, until the input ends or Ctrl-C comes twice in a row."""
    note(HELP)
    listed(engine)
    talk = Talk()

    def heard(line: str) -> None:
        nonlocal request
        request = _heard(engine, request, talk, line, max_new_tokens)

    listen(heard)


def _heard(
    engine: "Engine", request: Request, talk: Talk, line: str, max_new_tokens: int | None
) -> Request:
    """Do what a line says; the composition and mode that are asked for from then on."""
    word, _, rest = line.partition(" ")
    entries = engine.manifest.compositions
    try:
        if word == "/do" or (asked := exactly(line, entries)):
            name = named(rest, entries) if word == "/do" and rest.strip() else request.composition
            request = replace(request, composition=name if word == "/do" else asked)
            answered(engine, request, talk, max_new_tokens)
        elif word == "/list":
            listed(engine)
        elif word == "/help":
            note(HELP)
        elif word == "/mode":
            request = switched(engine, request, line)
        elif word in ("/new", "/back"):
            talk.turns = talk.turns[:-1] if word == "/back" else []
            note(f"the conversation has {len(talk.turns)} turns")
        elif line.strip():
            talk.turns.append(line)
            talk.read(engine, max_new_tokens)
    except OnepassError as error:
        if engine.closed:
            raise
        note(f"error: {error}")
    return request


def answered(engine: "Engine", request: Request, talk: Talk, max_new_tokens: int | None) -> None:
    if not talk.turns:
        raise OnepassError("there is no conversation yet; type or paste some turns first")
    note(f"[{request}]")
    reply(engine, request, talk.text, max_new_tokens, talk.figures)


def listed(engine: "Engine") -> None:
    """Print what there is to do, and whether that reads the conversation anew."""
    rows = [
        (
            entry.name,
            entry.task.instruction or entry.task.name,
            "" if entry.activated else "reads all of it",
        )
        for entry in engine.manifest.compositions
    ]
    print_table(("name", "what it does", ""), rows, err=True)


def exactly(line: str, entries: "Sequence[CompositionEntry]") -> str:
    """The composition that a line names, in words and nothing else; "" if it does not.

    Raises:
        OnepassError: it names several.
    """
    words = _words(line)
    return _best(line, [(0, entry) for entry in entries if words and words in _titles(entry)])


def named(line: str, entries: "Sequence[CompositionEntry]") -> str:
    """The composition that a line is for: called so, or else so and more.

    Raises:
        OnepassError: there is none, or there are several.
    """
    wanted, names = _words(line), [entry.name for entry in entries]
    if line.strip() in names:
        return line.strip()
    fitting = [
        (int(title != wanted), entry)
        for entry in entries
        for title in _titles(entry)
        if wanted and wanted <= title
    ]
    if not fitting:
        raise unknown("thing to do", line.strip(), names)
    return _best(line, fitting)


def _best(line: str, fitting: "list[tuple[int, CompositionEntry]]") -> str:
    """The name of the least, by its number; of equals, an activated one, of the fewest passes."""
    ranks = [((more, not each.activated, len(each.passes)), each.name) for more, each in fitting]
    best = list(dict.fromkeys(name for rank, name in ranks if rank == min(ranks)[0]))
    if len(best) > 1:
        raise OnepassError(f"{line.strip()!r} may be {' or '.join(best)}; say which")
    return best[0] if best else ""


def _titles(entry: "CompositionEntry") -> "list[frozenset[str]]":
    """What a composition is called: its name, its task's, and what it is told."""
    texts = (entry.name, entry.task.name, entry.task.instruction)
    return [words for words in map(_words, texts) if words]


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold())) - _EMPTY
