"""Where nothing may be written, or not all: told in one line, and nothing half-written or lost."""

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli_kit import (
    FAST,
    TASK,
    conversations,
    listing,
    onepass,
    save_adapters,
    save_random_composition,
    write_rows,
)
from conftest import MakeAdapter
from onepass.adapters.adapter import load_adapter
from onepass.model.load import Base

Capture = pytest.CaptureFixture[str]


def outputs(
    tmp_path: Path, base: Base, base_folder: Path, make_adapter: MakeAdapter
) -> dict[str, list[object]]:
    """Commands that write, each lacking only its output."""
    folder = save_random_composition(tmp_path / "composition", base, make_adapter)
    data = write_rows(tmp_path / "data.jsonl", conversations())
    model = ["--model", base_folder]
    adapters = save_adapters(tmp_path, make_adapter)
    return {
        "data": ["data", "export", TASK, "--limit", 20],
        "train": ["train", "summarize", *model, "--corpus", data, *FAST],
        "calibrate": [
            "calibrate", TASK, *model, "--adapters", *adapters, "--data", data, *FAST,
        ],
        "export": ["export", folder],
        "merged": ["export", folder, "--as", "merged", *model],
        "generate": ["generate", folder, *model, "--input", data, "--max-new-tokens", 8],
    }  # fmt: skip


COMMANDS = ["data", "train", "calibrate", "export", "merged", "generate"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_written(
    command: str, tmp_path: Path, base: Base, base_folder: Path, make_adapter: MakeAdapter,
    capsys: Capture,
) -> None:  # fmt: skip
    arguments = outputs(tmp_path, base, base_folder, make_adapter)[command]
    (tmp_path / "file").write_text("mine")
    done = onepass(capsys, *arguments, "--out", tmp_path / "file" / "out.jsonl")
    done.refused("cannot write", str(tmp_path / "file" / "out.jsonl"), "File exists")
    assert (tmp_path / "file").read_text() == "mine"


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: a write fails half-way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("existing", [False, True])
def test_a_disk_that_fills_up_while_saving(
    command: str, existing: bool, tmp_path: Path, base: Base, base_folder: Path,
    make_adapter: MakeAdapter, capsys: Capture,
) -> None:  # fmt: skip
    arguments = outputs(tmp_path, base, base_folder, make_adapter)[command]
    place = tmp_path / "place"
    place.mkdir()
    arguments = [*arguments, "--out", place / "out.jsonl"]
    if existing:
        onepass(capsys, *arguments).succeeded()
    before = listing(place)
    with files_up_to(200):
        done = onepass(capsys, *arguments)
    done.refused("cannot write", str(place / "out.jsonl"))
    assert listing(place) == before
    onepass(capsys, *arguments).succeeded()


def test_output_that_would_delete_the_users_files(
    tmp_path: Path, base: Base, base_folder: Path, make_adapter: MakeAdapter, capsys: Capture
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    file = tmp_path / "file"
    file.write_text("")
    commands = outputs(tmp_path, base, base_folder, make_adapter)
    for command in ("train", "calibrate", "export", "merged"):
        onepass(capsys, *commands[command], "--out", mine).refused("thesis.txt")
        onepass(capsys, *commands[command], "--out", file).refused("a file of that name exists")
    for command in ("data", "generate"):
        onepass(capsys, *commands[command], "--out", mine).refused("cannot write", str(mine))
    assert (mine / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("out", [".", "..", "../here", "absolute"])
def test_output_into_the_current_folder_is_refused_before_the_work(
    out: str, tmp_path: Path, base: Base, base_folder: Path, make_adapter: MakeAdapter,
    capsys: Capture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    commands = outputs(tmp_path, base, base_folder, make_adapter)
    pack = ["pack", *commands["export"][1:], *commands["merged"][-2:]]
    place = here if out == "absolute" else out
    for command in (commands["train"], commands["calibrate"], commands["export"], pack):
        told = f"cannot write {place}: it is the current folder, or that is inside it; name a new"
        onepass(capsys, *command, "--out", place).refused(told)
    assert list((tmp_path / "above").rglob("*")) == [here]
    onepass(capsys, *commands["export"], "--out", "new").succeeded()


def test_ctrl_c_while_training_leaves_a_resumable_state(
    tmp_path: Path, base_folder: Path, capsys: Capture
) -> None:
    data = write_rows(tmp_path / "data.jsonl", conversations())
    out = tmp_path / "adapter"
    steps = 100
    command = [
        "train", "summarize", "--model", str(base_folder), "--corpus", str(data), "--out", str(out),
        "--rank", "2", *FAST, "--steps", str(steps), "--eval-every", "1", "--patience", "1000",
    ]  # fmt: skip
    state = Path(f"{out}.state", "state.safetensors")
    process = subprocess.Popen(
        [sys.executable, "-m", "onepass", *command], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not state.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, told
    assert told.splitlines()[-1].startswith("interrupted: ")
    assert str(state.parent) in told
    assert "Traceback" not in told
    assert set(listing(tmp_path)) == {"data.jsonl", "adapter.state/state.safetensors"}
    # Not as another training ...
    onepass(capsys, *command, "--learning-rate", "1e-3").refused("learning_rate", str(state))
    # ... but as the same one, which then ends as if nothing had been.
    onepass(capsys, *command).succeeded()
    assert load_adapter(out).card["steps"] == steps
    assert not state.parent.exists()
