"""`onepass serve` as a process: what it prints, how it is ended, what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cli_kit import onepass
from device_kit import engine_or_skip
from onepass.adapters.composition import save_composition
from onepass.model.assets import embedded_adapter
from onepass.serve.http.server import KEY, listen
from serve_kit import KEY as OURS
from serve_kit import Running, compositions, until

engine_or_skip()
Capture = pytest.CaptureFixture[str]


@dataclass
class Process:
    """The command, what it printed at the start, and the server as others see it."""

    popen: "subprocess.Popen[str]"
    printed: list[str]
    server: Running

    @property
    def children(self) -> list[psutil.Process]:
        return list(psutil.Process(self.popen.pid).children(recursive=True))


@contextmanager
def command(*args: object, key: str = OURS) -> Iterator[Process]:
    """The command on a free port, until the block ends."""
    words = [sys.executable, "-m", "onepass", "serve", *map(str, args), "--port", "0"]
    popen = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, KEY: key},
    )  # fmt: skip
    try:
        assert popen.stdout is not None
        assert popen.stderr is not None
        printed = [popen.stdout.readline().strip()]
        assert printed[0].startswith("serving on http://127.0.0.1:"), popen.stderr.read()
        if not key:
            printed.append(popen.stdout.readline().strip())
        port = int(printed[0].rpartition(":")[2].removesuffix("/v1"))
        yield Process(popen, printed, Running(port, popen.terminate, None))  # type: ignore[arg-type]
    finally:
        popen.kill()
        popen.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_leaves_nothing_behind(whole: Path, number: signal.Signals) -> None:
    with command(whole, "--threads", 1, "--grace", 0.2) as process:
        children = process.children
        assert len(children) == 1
        assert process.server.said("pair", "Ana: Hello?", 3)
        with process.server.stream(model="base", max_tokens=100) as answer:
            answer.read(100)
            process.popen.send_signal(number)
            answer.read()
        _, said = process.popen.communicate(timeout=20)
        assert process.popen.returncode == 0
        assert said.splitlines()[-1] == "the server has ended"
        assert "Traceback" not in said
        assert not psutil.wait_procs(children, 5)[1]


def test_a_killed_server_leaves_no_engine(whole: Path) -> None:
    with command(whole, "--threads", 1) as process:
        children = process.children
        process.popen.kill()
        assert not psutil.wait_procs(children, 10)[1]


def test_an_engine_that_is_killed_shows(whole: Path) -> None:
    with command(whole, "--threads", 1, "--parts", "--parallel", 1) as process:
        (child,) = process.children
        child.kill()
        status, said = process.server.chat(model="pair")
        assert status == 503, said
        until(lambda: process.server.health()["status"] == "failed")


def test_compositions_are_served_with_a_key_that_it_makes(tmp_path: Path) -> None:
    save_composition(compositions()["both"], tmp_path / "both")
    with command(tmp_path / "both", embedded_adapter("reply"), key="") as process:
        _, said = process.printed
        assert said.startswith("key ")
        with process.server.client(said.removeprefix("key ")) as client:
            assert "both" in [each.id for each in client.models.list()]
        assert process.server.ask("GET", "/v1/models")[0] == 401
        process.popen.send_signal(signal.SIGTERM)
        _, said = process.popen.communicate(timeout=20)
        assert process.popen.returncode == 0, said
        for name in ("both", "reply", "summarize", "translate-es", "base"):
            assert f"\n{name}\t" in f"\n{said}"


def test_a_mistake_is_one_line(
    capsys: Capture, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY, raising=False)
    adapter = embedded_adapter("reply")
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        onepass(capsys, "serve", whole, "--port", port).refused(
            f"port {port} of 127.0.0.1 is taken"
        )
    onepass(capsys, "serve", whole, adapter).refused("is a device set, which is served alone")
    onepass(capsys, "serve", whole, "--device", "cpu").refused("--device", "llama.cpp")
    onepass(capsys, "serve", adapter, "--parallel", 2).refused("--parallel", "pack a set")
    onepass(capsys, "serve", tmp_path).refused("is neither a composition")
    onepass(capsys, "serve", whole, "--no-key", "--host", "0.0.0.0").refused("--no-key")
    onepass(capsys, "serve", whole, "--max-body", "much").refused("'much' is no count")
    onepass(capsys, "serve", whole, "--port", 0, "--context", 10**6).refused("context 1000000")


def test_its_help_is_there_without_loading_anything_slow() -> None:
    code = (
        "import sys; from onepass.cli.app import load_command; load_command('serve');"
        "print(sorted({'torch', 'starlette', 'uvicorn', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.monotonic() - began < 20
