"""Bad input at the command line: told in one line, exit status 2, and nothing half-written."""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cli_kit import (
    FAST,
    TASK,
    conversations,
    onepass,
    save_adapters,
    save_random_composition,
    write_rows,
)
from conftest import MakeAdapter
from onepass.adapters.adapter import load_adapter
from onepass.model.load import Base

Capture = pytest.CaptureFixture[str]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def listing(folder: Path) -> dict[str, bytes]:
    """Every file under a folder and what it holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def put(key: str, value: Any) -> Callable[[Path], None]:
    def change(adapter: Path) -> None:
        config = json.loads((adapter / CONFIG).read_text())
        (adapter / CONFIG).write_text(json.dumps({**config, key: value}))

    return change


def poison(value: float, file: str = WEIGHTS) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / file)
        next(iter(tensors.values())).view(-1)[0] = value
        save_file(tensors, folder / file, metadata={"format": "pt"})

    return change


def cut(file: str = WEIGHTS) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / file, (folder / file).stat().st_size // 2)


def garble(file: str = WEIGHTS) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / file).write_bytes(b"\xff" * 4000)

    return change


def remove(file: str = WEIGHTS) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def widen(adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS)
    for name, tensor in tensors.items():
        if "lora_A" in name:
            tensors[name] = torch.cat([tensor, tensor], dim=1)
    save_file(tensors, adapter / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(remove(), (WEIGHTS, "does not exist"), id="missing"),
        pytest.param(garble(), (WEIGHTS, "corrupt or cut short"), id="corrupt"),
        pytest.param(cut(), (WEIGHTS, "corrupt or cut short"), id="truncated"),
        pytest.param(poison(float("nan")), (WEIGHTS, "NaN or Inf"), id="nan"),
        pytest.param(poison(float("-inf")), (WEIGHTS, "NaN or Inf"), id="inf"),
        pytest.param(
            put("base_model_name_or_path", "org/other"), ("org/other", "not on micro"), id="base"
        ),
        pytest.param(widen, ("down_proj", "another base"), id="shape"),
        pytest.param(put("use_dora", True), (CONFIG, "use_dora", "DoRA"), id="dora"),
        pytest.param(put("lora_bias", True), (CONFIG, "lora_bias", "biases"), id="lora_bias"),
        pytest.param(
            put("modules_to_save", ["lm_head"]), (CONFIG, "modules_to_save", "lm_head"), id="saved"
        ),
        pytest.param(remove(CONFIG), (CONFIG,), id="no config"),
        pytest.param(garble(CONFIG), (CONFIG, "UTF-8"), id="config"),
    ],
)
def test_a_bad_adapter(
    damage: Callable[[Path], None], words: tuple[str, ...], tmp_path: Path, base_folder: Path,
    make_adapter: MakeAdapter, capsys: Capture,
) -> None:  # fmt: skip
    paths = save_adapters(tmp_path, make_adapter)
    damage(paths[1])
    data = write_rows(tmp_path / "data.jsonl", conversations())
    before = listing(tmp_path)
    onepass(
        capsys, "calibrate", TASK, "--model", base_folder, "--adapters", *paths, "--data", data,
        "--out", tmp_path / "out", *FAST,
    ).refused(*words)  # fmt: skip
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove("calibration-0.safetensors"), ("calibration-0", "does not exist")),
        (cut("calibration-0.safetensors"), ("calibration-0", "corrupt or cut short")),
        (cut("composition.json"), ("composition.json", "line ")),
        (remove("composition.json"), ("composition.json",)),
        (poison(float("nan"), f"adapters/1/{WEIGHTS}"), ("adapters/1", "NaN")),
    ],
)
def test_a_bad_composition(
    damage: Callable[[Path], None], words: tuple[str, ...], tmp_path: Path, base: Base,
    base_folder: Path, make_adapter: MakeAdapter, capsys: Capture,
) -> None:  # fmt: skip
    folder = save_random_composition(tmp_path / "composition", base, make_adapter)
    damage(folder)
    text = tmp_path / "chat.txt"
    text.write_text("Ana: Hi.")
    command = ("generate", folder, "--model", base_folder, "--input", text)
    onepass(capsys, *command).refused(*words)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove("model.safetensors"), ("model.safetensors",)),
        (cut("model.safetensors"), ("cannot load",)),
        (poison(float("inf"), "model.safetensors"), ("NaN or infinity",)),
        (remove("config.json"), ("config.json",)),
    ],
)
def test_a_bad_base(
    damage: Callable[[Path], None], words: tuple[str, ...], tmp_path: Path, base_folder: Path,
    capsys: Capture,
) -> None:  # fmt: skip
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, held in listing(base_folder).items():
        (copy / name).write_bytes(held)
    damage(copy)
    data = write_rows(tmp_path / "data.jsonl", conversations())
    command = ("train", "summarize", "--model", copy, "--corpus", data, "--out", tmp_path / "out")
    onepass(capsys, *command, *FAST).refused(str(copy), *words)
    assert not (tmp_path / "out").exists()


def test_a_composition_for_another_base(
    tmp_path: Path, base: Base, base_folder: Path, make_adapter: MakeAdapter, capsys: Capture
) -> None:
    folder = save_random_composition(tmp_path / "composition", base, make_adapter)
    manifest = json.loads((folder / "composition.json").read_text())
    manifest["base"]["name"] = "org/other"
    for adapter in folder.glob("adapters/*"):
        put("base_model_name_or_path", None)(adapter)
    (folder / "composition.json").write_text(json.dumps(manifest))
    text = tmp_path / "chat.txt"
    text.write_text("Ana: Hi.")
    command = ("generate", folder, "--input", text)
    onepass(capsys, *command, "--model", base_folder).refused("org/other", "micro")


def test_a_composition_whose_base_is_not_here_asks_for_it(
    tmp_path: Path, base: Base, make_adapter: MakeAdapter, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = save_random_composition(tmp_path / "composition", base, make_adapter)
    text = tmp_path / "chat.txt"
    text.write_text("Ana: Hi.")
    onepass(capsys, "generate", folder, "--input", text).refused("the base micro", "--model")


GOOD = json.dumps(conversations(1)[0]).encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", ("holds no examples",), id="empty"),
        pytest.param(b"\n \n", ("holds no examples",), id="blank"),
        pytest.param(GOOD * 2 + b'{"input": "x", \n', ("line 3", "not JSON"), id="broken line"),
        pytest.param(GOOD + b"[1]\n", ("line 2", "expected an object"), id="no object"),
        pytest.param(GOOD + b'{"input": "x"}\n', ("line 2", "target"), id="no target"),
        pytest.param(GOOD + b'{"input": 3, "target": "y"}', ("line 2", "input"), id="no text"),
        pytest.param(GOOD + b"\xe9t\xe9\n", ("not UTF-8", "byte"), id="latin-1"),
        pytest.param(GOOD, ("validation",), id="too few"),
    ],
)
def test_bad_data(
    content: bytes, words: tuple[str, ...], tmp_path: Path, base_folder: Path, capsys: Capture
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_bytes(content)
    command = ("train", "summarize", "--model", base_folder, "--corpus", data)
    onepass(capsys, *command, "--out", tmp_path / "out", *FAST).refused("data.jsonl", *words)
    assert set(listing(tmp_path)) == {"data.jsonl"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("chat.txt", b"", ("empty",)),
        ("chat.txt", b"Se\xf1or", ("not UTF-8",)),
        ("chat.jsonl", b'{"input": "x"}\n{"text": "y"}\n', ("line 2", '"input"')),
        ("chat.jsonl", b'{"input": "x"}\nnonsense\n', ("line 2", "not JSON")),
        ("chat.txt", None, ("cannot read",)),
    ],
)
def test_bad_text(
    name: str, content: bytes | None, words: tuple[str, ...], tmp_path: Path, base: Base,
    base_folder: Path, make_adapter: MakeAdapter, capsys: Capture,
) -> None:  # fmt: skip
    folder = save_random_composition(tmp_path / "composition", base, make_adapter)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    command = ("generate", folder, "--model", base_folder, "--input", tmp_path / name)
    onepass(capsys, *command, "--out", tmp_path / "out").refused(name, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("data", "export", "sumarize"), ("unknown task 'sumarize'", "did you mean 'summarize'")),
        (("train", "translate:sp"), ("did you mean 'translate:es'",)),
        (("calibrate", "summarize+tone:wity"), ("did you mean 'tone:witty'",)),
        (("calibrate", TASK, "--kind", "lc+"), ("unknown calibration kind", "'lc++'")),
        (("calibrate", TASK, "--kind", "lc++", "--form", "column"), ("lc++", "no form 'column'")),
        (
            ("data", "export", "reply", "--split", "tets"),
            ("unknown split 'tets'", "did you mean 'test'"),
        ),
        (("data", "export", "reply", "--corpus", "smaltown"), ("unknown corpus 'smaltown'",)),
        (("data", "export", "reply", "--corpus", "persona-chat:no.csv"), ("no.csv",)),
        (("data", "export", "reply", "--corpus", "no.jsonl"), ("no.jsonl",)),
    ],
)
def test_unknown_names_suggest_near_ones(
    command: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    onepass(capsys, *command).refused(*words)
    assert listing(tmp_path) == {}


def test_an_unknown_metric_suggests_a_near_one(tmp_path: Path, capsys: Capture) -> None:
    file = write_rows(tmp_path / "p.jsonl", [{"id": "test-0", "prediction": "x"}])
    done = onepass(capsys, "score", file, "--task", TASK, "--metrics", "chrf", "rouge_L")
    done.refused("unknown metric 'rouge_L'", "did you mean 'rougeL'")


def test_an_unknown_method_suggests_a_near_one(tmp_path: Path, capsys: Capture) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: a\nmethods: [joint]\n")
    onepass(capsys, "bench", recipe).refused(
        "unknown method 'joint'", "did you mean 'joint-expert'"
    )


@contextmanager
def without_privilege() -> Iterator[None]:
    """As a user whom file permissions bind; root, whom they do not, gives that power up meanwhile.

    Linux: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, in the effective set (capabilities(7)).
    """
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held = (ctypes.c_uint32 * 6)()
    if not hasattr(libc, "capset") or libc.capget(header, held):
        pytest.skip("root may write anywhere here")
    fewer = (ctypes.c_uint32 * 6)(*held)
    fewer[0] &= ~0b110
    if libc.capset(header, fewer):
        pytest.skip("root may write anywhere here")
    try:
        yield
    finally:
        libc.capset(header, held)


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
def test_a_folder_that_may_not_be_written(
    command: str, tmp_path: Path, base: Base, base_folder: Path, make_adapter: MakeAdapter,
    capsys: Capture,
) -> None:  # fmt: skip
    arguments = outputs(tmp_path, base, base_folder, make_adapter)[command]
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    with without_privilege():
        done = onepass(capsys, *arguments, "--out", locked / "out.jsonl")
    done.refused("cannot write", str(locked / "out.jsonl"), "Permission denied")
    assert listing(locked) == {}


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
