"""The command's standard output: full, closed by its reader, or of another encoding."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli_kit import onepass
from onepass.cli import app

COMMAND = [sys.executable, "-m", "onepass"]
SPANISH = ("data", "export", "translate:es", "--limit", "2")
LONG = ("data", "export", "summarize", "--limit", "400")  # more than a pipe holds


def run(*args: str, **how: Any) -> subprocess.CompletedProcess[str]:
    how = {"stdout": subprocess.PIPE, **how}
    return subprocess.run(
        [*COMMAND, *args], stderr=subprocess.PIPE, encoding="utf-8", timeout=60, **how
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("args", [("--help",), ("ls", "tasks"), LONG])
def test_a_full_disk_is_reported(args: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = run(*args, stdout=full)
    assert done.returncode == 2
    assert done.stderr == "error: cannot write the output: No space left on device\n"


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="needs /dev/stdout")
@pytest.mark.parametrize("mode", ["a", "w"])
def test_dev_stdout_is_the_output_of_the_shell(mode: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\n")
    with log.open(mode) as opened:
        done = [run(*SPANISH, "--out", "/dev/stdout", stdout=opened) for _ in range(2)]
    assert [each.returncode for each in done] == [0, 0], done[0].stderr
    assert log.read_text() == ("old\n" if mode == "a" else "") + 2 * run(*SPANISH).stdout
    assert list(tmp_path.iterdir()) == [log]


@pytest.mark.parametrize("args", [("--help",), LONG])
def test_a_broken_pipe_ends_it_silently(args: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run(*args, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (app.GONE, "")


def test_a_pipe_gets_utf_8_whatever_the_encoding() -> None:
    usual = run(*SPANISH)
    done = run(*SPANISH, env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    assert not done.stdout.isascii()
    assert (done.returncode, done.stdout) == (0, usual.stdout)


def test_a_terminal_gets_its_own_encoding_with_escapes() -> None:
    ours, theirs = pty.openpty()
    done = run(*SPANISH, stdout=theirs, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, "")
    assert rb"\xe1" in os.read(ours, 1 << 16)
    os.close(ours)


def test_what_cannot_be_encoded_at_all_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", output)
    app._prepare_streams()
    print("té \ud800", end="", file=output, flush=True)
    assert output.buffer.getvalue() == r"té \ud800".encode()


def test_a_file_name_that_the_system_refuses_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    onepass(capsys, "inspect", "a" * 5000).refused("aaa", "File name too long")
