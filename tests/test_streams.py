"""The command's standard streams: full, closed, read by nobody, or of another encoding."""

import io
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli_kit import onepass, rows_of
from onepass.cli import app

COMMAND = [sys.executable, "-m", "onepass"]
SPANISH = ("data", "export", "translate:es", "--limit", "2")
LONG = ("data", "export", "summarize", "--limit", "400")  # more than a pipe holds


def run(*args: str, **how: Any) -> subprocess.CompletedProcess[str]:
    how = {"stdout": subprocess.PIPE, **how}
    return subprocess.run(
        [*COMMAND, *args], stderr=subprocess.PIPE, encoding="utf-8", timeout=60, **how
    )


@pytest.mark.parametrize("args", [("--help",), ("ls", "--help"), ("ls", "tasks"), SPANISH, LONG])
def test_a_full_disk_is_told(args: tuple[str, ...]) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no device that is always full")
    full = os.open("/dev/full", os.O_WRONLY)
    done = run(*args, stdout=full)
    os.close(full)
    assert done.returncode == 2
    assert done.stderr == "error: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("flags", [os.O_APPEND, os.O_TRUNC])
def test_the_output_by_its_name_goes_where_the_shell_leads_it(flags: int, tmp_path: Path) -> None:
    if not os.path.exists("/dev/stdout"):
        pytest.skip("this system names no open files")
    log = tmp_path / "log"
    log.write_text("old\n")
    opened = os.open(log, os.O_WRONLY | flags)
    done = [run(*SPANISH, "--out", "/dev/stdout", stdout=opened) for _ in range(2)]
    os.close(opened)
    assert [each.returncode for each in done] == [0, 0], done[0].stderr
    kept = "" if flags == os.O_TRUNC else "old\n"
    assert log.read_text() == kept + 2 * run(*SPANISH).stdout
    assert list(tmp_path.iterdir()) == [log]


def test_a_socket_takes_the_output_by_its_name() -> None:
    if not os.path.exists("/dev/stdout"):
        pytest.skip("this system names no open files")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = run(*SPANISH, "--out", "/dev/stdout", stdout=theirs)
        assert done.returncode == 0, done.stderr
        assert len(rows_of(ours.recv(1 << 16).decode())) == 2


@pytest.mark.parametrize("args", [("--help",), LONG])
def test_a_reader_that_has_gone_ends_it_silently(args: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run(*args, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (app.GONE, "")


def test_a_closed_output_is_told_before_the_work(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    done = run(*SPANISH, "--out", str(out), preexec_fn=lambda: os.close(1))
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output is closed; ")
    assert not out.exists()


def test_a_closed_input_and_a_closed_error_output_do_no_harm() -> None:
    def close() -> None:
        os.close(0)
        os.close(2)

    done = run(*SPANISH, preexec_fn=close)
    assert (done.returncode, len(rows_of(done.stdout))) == (0, 2)


def test_a_pipe_gets_utf_8_whatever_the_encoding() -> None:
    usual = run(*SPANISH)
    done = run(*SPANISH, env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    assert not done.stdout.isascii()
    assert (done.returncode, done.stdout) == (0, usual.stdout)


def test_a_terminal_gets_its_own_encoding_with_escapes_for_what_it_lacks() -> None:
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


def test_a_file_that_the_system_refuses_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    onepass(capsys, "inspect", "a" * 5000).refused("aaa", "File name too long")
