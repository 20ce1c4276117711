"""`onepass run` in conversation, on a terminal."""

import io
from pathlib import Path

import pytest

from cli_kit import Done, Interrupted, Terminal, onepass, packed, random_composition
from conftest import MakeAdapter
from device_kit import CHAT, engine_or_skip
from onepass.adapters.composition import save_composition
from onepass.cli import app, conversation
from onepass.core.errors import OnepassError
from onepass.model.load import Base
from onepass.serve import Answer, Engine

engine_or_skip()

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def device(
    base: Base, base_folder: Path, make_adapter: MakeAdapter, tmp_path: Path, capsys: Capture
) -> Path:
    save_composition(random_composition(base, make_adapter, "lowrank"), tmp_path / "both")
    return packed(capsys, tmp_path / "both", base_folder, tmp_path / "device")


def test_a_conversation_on_a_terminal_is_answered_until_it_ends(
    device: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = f"{CHAT}\n\n/mode mian\n/mode main\n{CHAT}\n\n/use bath\n{CHAT}"
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    done = onepass(capsys, "run", device, "--max-new-tokens", "4").succeeded()
    assert "unknown mode 'mian'" in done.err
    assert "both (main)" in done.err
    assert "unknown composition of this set 'bath'" in done.err
    assert done.err.count("tokens/s") == 3  # the last text is ended by the end of the input
    monkeypatch.setattr("sys.stdin", io.StringIO(CHAT))
    onepass(capsys, "run", device).refused("--input")


def test_commands_of_a_conversation_tell_what_there_is(
    device: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("/help\n/mode\n/use\n"))
    done = onepass(capsys, "run", device).succeeded()
    assert done.err.count(conversation.HELP) == 2
    assert "modes: zero-shot, main, multi-step, composed\n" in done.err
    assert "\ncompositions: both\n" in done.err
    assert "no command" not in done.err
    assert "unknown" not in done.err


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the engine is asked about; it refuses "refuse", and is closed by "die"."""
    ask, texts = Engine.run, list[str]()

    def recorded(self: Engine, composition: str, text: str, *args: object) -> Answer:
        texts.append(text)
        if text == "refuse":
            raise OnepassError("llama.cpp refuses the request")
        if text == "die":
            self.close()
        return ask(self, composition, text, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "run", recorded)
    return texts


def test_a_conversation_goes_on_after_a_text_without_an_answer(
    device: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    class Typed(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    def conversation(typed: bytes) -> Done:
        monkeypatch.setattr("sys.stdin", Typed(io.BytesIO(typed), encoding="utf-8"))
        return onepass(capsys, "run", device, "--max-new-tokens", "4")

    done = conversation(b"refuse\n\nAna: caf\xe9?\n\n").succeeded()
    assert "error: llama.cpp refuses the request" in done.err
    assert done.err.count("tokens/s") == 1
    assert asked == ["refuse", "Ana: caf\ufffd?"]
    conversation(b"die\n\nAna: Tea?\n\n").refused("the engine is closed")


def test_a_text_may_begin_with_a_slash(
    device: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    typed = "/usr/bin is a path.\n/use it.\n\n/mode main\n/modern times.\n\n /help me.\n/help"
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    done = onepass(capsys, "run", device, "--max-new-tokens", "4").succeeded()
    assert asked == ["/usr/bin is a path.\n/use it.", "/modern times.", " /help me.\n/help"]
    assert "both (main)" in done.err


def test_ctrl_c_at_the_prompt_drops_what_was_typed_and_twice_ends_all(
    device: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    typed = "Ana: Wrong.\nBen: Al\n^C\nAna: Tea?\n\n^C\nAna: Cake?\n\n^C\n^C\nAna: Late.\n\n"
    monkeypatch.setattr("sys.stdin", Interrupted(typed))
    done = onepass(capsys, "run", device, "--max-new-tokens", "4")
    assert done.code == app.INTERRUPTED
    assert asked == ["Ana: Tea?", "Ana: Cake?"]
    assert done.err.count("Ctrl-C again") == 3


def test_what_does_not_fit_a_conversation_is_told(
    device: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(f"{CHAT}\n{CHAT}\n\n"))
    done = onepass(capsys, "run", device, "--max-new-tokens", "4", "--context", "60").succeeded()
    assert "note: the input is longer than the context" in done.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--mode", "main", "composed"), ("one --mode", "--input")),
        (("-c", "both", "other"), ("one --composition", "--input")),
        (("--out", "x"), ("--out", "--input")),
        (("--format", "jsonl"), ("--format", "--input")),
    ],
)
def test_a_conversation_refuses_what_it_would_ignore(
    device: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...], words: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", Terminal(CHAT))
    onepass(capsys, "run", device, *options).refused(*words)


def test_on_a_terminal_an_answer_is_shown_as_it_comes_and_ctrl_c_ends_it_alone(
    device: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = f"{CHAT}\n\n{CHAT}\nBen: Bye.\n\n"
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    piped = onepass(capsys, "run", device, "--max-new-tokens", "6").succeeded().out
    first, _, second = piped.partition("\n\n")
    show, shown = conversation.show, []

    def interrupted(piece: str) -> None:
        show(piece)
        shown.append(piece)
        if len(shown) == 2:
            raise KeyboardInterrupt

    for take in (show, interrupted):
        monkeypatch.setattr(conversation, "show", take)
        monkeypatch.setattr("sys.stdin", Terminal(typed))
        monkeypatch.setattr("sys.stdout", screen := Terminal())
        done = onepass(capsys, "run", device, "--max-new-tokens", "6").succeeded()
        if take is show:
            assert screen.getvalue() == piped
    assert len(shown) > 2
    assert first.startswith("".join(shown[:2]))
    assert screen.getvalue() == "".join(shown[:2]) + second
    assert "interrupted" in done.err
