"""`onepass run --chat`: a conversation is read as it is typed, and then asked about."""

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from activated_device_kit import (
    SPANISH,
    TALK,
    TURNS,
    WITTY,
    activated,
    said,
    save_mixed,
    tiny,
)
from activated_kit import prompt_of
from cli_kit import Done, Interrupted, Terminal, onepass
from device_kit import engine_or_skip
from onepass.cli import app, chat
from onepass.core.errors import OnepassError
from onepass.export.manifest import CompositionEntry, read_set
from onepass.serve import Engine
from onepass.tasks.book import parse_task

engine_or_skip()

Capture = pytest.CaptureFixture[str]
Chat = Callable[..., Done]
FEW = ("--max-new-tokens", "8")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "mixed"
    save_mixed(tiny(), folder)
    return folder


@pytest.fixture
def chatted(mixed: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Chat:
    """Type lines into a chat, through a pipe."""

    def run(*lines: str, options: tuple[str, ...] = FEW, terminal: bool = False) -> Done:
        kind = Terminal if terminal else io.StringIO
        monkeypatch.setattr("sys.stdin", kind("\n".join(lines)))
        return onepass(capsys, "run", mixed, "--chat", *options)

    return run


def counts(done: Done) -> list[tuple[int, int]]:
    """Of each answer, the tokens read and cached."""
    found = re.findall(r"read ([\d,]+) tokens, ([\d,]+) cached", done.err)
    return [(int(read.replace(",", "")), int(cached.replace(",", ""))) for read, cached in found]


def test_what_is_asked_is_answered_from_what_was_read(chatted: Chat) -> None:
    done = chatted(
        *TURNS, "/do witty", "summarize in Spanish", "/do", "Ana: Good!", "/do witty"
    ).succeeded()
    base = tiny()
    _, start = prompt_of(base, parse_task(SPANISH).activated(), TALK)
    longer = f"{TALK}\nAna: Good!"
    _, later = prompt_of(base, parse_task(SPANISH).activated(), longer)
    assert [cached for _, cached in counts(done)] == [start, start, start, later]
    assert max(read for read, _ in counts(done)) < 20
    witty, spanish = (activated(base, words).passes for words in (WITTY, SPANISH))
    wanted = [(witty, TALK), (spanish, TALK), (spanish, TALK), (witty, longer)]
    texts = [said(base, passes, text, 8) for passes, text in wanted]
    assert [text.strip() for text in done.out.split("\n\n")[:-1]] == texts
    assert done.err.count("s to the first token") == 4
    assert done.err.count("read as it came") == 2  # the first four turns, then the last


def test_it_fits_a_terminal_of_eighty_columns(chatted: Chat) -> None:
    done = chatted(*TURNS, "/do witty", "/mode", "/list", "/do xyz", terminal=True).succeeded()
    figures = [line for line in done.err.splitlines() if "token" in line]
    assert figures
    for line in [*figures, *chat.HELP.splitlines()]:
        assert len(line) <= 80, line


def test_the_set_also_does_what_reads_all_of_it(chatted: Chat) -> None:
    done = chatted(*TURNS, "/do plain", "/do spanish").succeeded()
    (plain, before), (_, after) = counts(done)
    assert before == 0
    assert plain > after > 0
    assert re.search(r"plain.*reads all of it", done.err)
    assert not re.search(r"witty.*reads all of it", done.err)


def test_a_conversation_may_be_changed_and_begun_anew(chatted: Chat) -> None:
    done = chatted(
        "/do spanish", *TURNS, "Ana: Wrong", "/back", "/do spanish", "/new", "/do", TURNS[0], "/do"
    ).succeeded()
    assert done.err.count("error: there is no conversation yet") == 2
    assert "the conversation has 4 turns" in done.err
    assert "the conversation has 0 turns" in done.err
    first, second = (text.strip() for text in done.out.split("\n\n")[:2])
    passes = activated(tiny()).passes
    assert first == said(tiny(), passes, TALK, 8)
    assert second == said(tiny(), passes, TURNS[0], 8)


def test_mistakes_are_told_and_the_conversation_goes_on(chatted: Chat) -> None:
    done = chatted(
        *TURNS, "/do spanisch", "/do summarize", "/mode mian", "/mode main", "/do spanish"
    ).succeeded()
    assert "unknown thing to do 'spanisch': did you mean 'spanish'" in done.err
    assert "'summarize' may be spanish or witty; say which" in done.err
    assert "unknown mode 'mian'" in done.err
    assert "[spanish, main]" in done.err
    assert len(counts(done)) == 1


def entries(mixed: Path) -> list[CompositionEntry]:
    return read_set(mixed).compositions


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("witty", "witty"),
        ("Summarize the conversation in a witty tone!", "witty"),
        ("summarize, witty", "witty"),
        ("please summarize it in a witty tone", "witty"),
        ("plain", "plain"),
        ("Ana: Summarize it in a witty tone.", ""),
        ("summarize", ""),
        ("tea", ""),
        ("...", ""),
        ("", ""),
    ],
)
def test_a_line_asks_only_if_it_says_nothing_else(line: str, name: str, mixed: Path) -> None:
    assert chat.exactly(line, entries(mixed)) == name


@pytest.mark.parametrize(
    ("words", "name"), [("witty", "witty"), ("in a witty tone", "witty"), ("steps", "steps")]
)
def test_do_takes_some_of_the_words(words: str, name: str, mixed: Path) -> None:
    assert chat.named(words, entries(mixed)) == name


def test_an_engine_that_has_died_ends_the_chat(
    chatted: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Engine.read

    def dying(self: Engine, text: str, **options: int | None) -> object:
        if "die" in text:
            self.close()
        return read(self, text, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "read", dying)
    chatted("Ana: die", "/do").refused("the engine is closed")


def test_ctrl_c_twice_ends_it(
    mixed: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Interrupted(f"{TURNS[0]}\n^C\n/do\n^C\n^C\n/do\n"))
    done = onepass(capsys, "run", mixed, "--chat", *FEW)
    assert done.code == app.INTERRUPTED
    assert len(counts(done)) == 1
    assert done.err.count("Ctrl-C again") == 2


def test_what_has_no_chat_says_so(
    chatted: Chat, whole: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(TALK))
    onepass(capsys, "run", whole, "--chat").refused("no composition of this set is activated")
    chatted(options=("--input", "x.txt")).refused("--chat", "--input")
    with pytest.raises(OnepassError, match="unknown thing to do"):
        chat.named("...", [])


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_on_a_real_terminal_it_reads_and_answers(mixed: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "onepass", "run", str(mixed), "--chat", *FEW]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
    ) as child:
        os.close(theirs)
        os.write(ours, f"{TALK}\n/do witty\n\x04".encode())
        seen = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux: the other side is closed
                break
            if not piece:
                break
            seen += piece
        assert child.wait(60) == 0
    os.close(ours)
    text = seen.decode()
    assert said(tiny(), activated(tiny(), WITTY).passes, TALK, 8) in text.replace("\r", "")
    assert "s to the first token" in text
