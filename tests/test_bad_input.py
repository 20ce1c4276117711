"""Bad input at the command line: told in one line, with exit status 2."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

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
from onepass.model.load import Base

Capture = pytest.CaptureFixture[str]
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


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
            put("base_model_name_or_path", "org/micro"), ("org/micro", "not on"), id="base"
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
    (tmp_path / "chat.txt").write_text("Ana: Hi.")
    command = ("generate", folder, "--input", tmp_path / "chat.txt")
    manifest = json.loads((folder / "composition.json").read_text())
    manifest["base"]["name"] = "org/other"
    for adapter in folder.glob("adapters/*"):
        put("base_model_name_or_path", None)(adapter)
    (folder / "composition.json").write_text(json.dumps(manifest))
    onepass(capsys, *command, "--model", base_folder).refused("org/other", "micro")


def test_a_composition_whose_base_is_not_here_asks_for_it(
    tmp_path: Path, base: Base, make_adapter: MakeAdapter, capsys: Capture
) -> None:
    gone = replace(base, name=str(tmp_path / "gone"))
    folder = save_random_composition(
        tmp_path / "composition",
        gone,
        lambda name, **options: replace(make_adapter(name, **options), base=gone.name),
    )
    text = tmp_path / "chat.txt"
    text.write_text("Ana: Hi.")
    onepass(capsys, "generate", folder, "--input", text).refused(f"the base {gone.name}", "--model")


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
        ("chat.jsonl", rb'{"input": "\ud800 hi"}', ("line 1", "half a character")),
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


def test_an_unknown_metric_or_method_suggests_a_near_one(tmp_path: Path, capsys: Capture) -> None:
    file = write_rows(tmp_path / "p.jsonl", [{"id": "test-0", "prediction": "x"}])
    done = onepass(capsys, "score", file, "--task", TASK, "--metrics", "chrf", "rouge_L")
    done.refused("unknown metric 'rouge_L'", "did you mean 'rougeL'")
    file.write_text("name: a\nmethods: [joint]\n")
    done = onepass(capsys, "bench", file)
    done.refused("unknown method 'joint'", "did you mean 'joint-expert'")
