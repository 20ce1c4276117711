"""What is wrong with a command is told before it reads data or weights, and before it works."""

from pathlib import Path
from typing import Any

import pytest

from cli_kit import TASK, listing, onepass
from onepass.adapters import storage
from onepass.model import load
from onepass.smalltown.corpus import Smalltown

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def reads(*args: object, **options: object) -> Any:
        raise AssertionError("this is for later")

    monkeypatch.setattr(Smalltown, "examples", reads)
    monkeypatch.setattr(storage, "safe_open", reads)
    monkeypatch.setattr(load, "_tokenizer", reads)


TRAINING = [
    (("--base-quantization", "q5_0"), ("unknown quantization 'q5_0'", "q4_0")),
    (("--dtype", "float8"), ("unknown dtype 'float8'", "float16")),
    (("--device", "gpu"), ("device 'gpu'", "'cpu'")),
    (("--save-as", "float8"), ("unknown dtype to save as 'float8'",)),
    (("--precision", "float8"), ("precision is 'float8'", "bfloat16")),
    (("--model", "./nosuch"), ("there is no folder nosuch",)),
    (("--steps", "0"), ("max_steps is 0", "at least 1")),
    (("--learning-rate", "0"), ("learning_rate is 0.0", "above 0")),
    (("--batch-size", "0"), ("batch_size is 0",)),
    (("--seed", "-1"), ("seed is -1",)),
]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        *((("train", "summarize", *more), words) for more, words in TRAINING),
        (("train", "summarize", "--alpha", "0"), ("alpha 0.0", "positive")),
        *((("calibrate", TASK, *more), words) for more, words in TRAINING),
        (("calibrate", TASK, "--kind", "lc", "--rank", "2"), ("rank", "biases have none")),
        (("merge", "a", "b", "--out", "o", "--method", "teis"), ("'teis'", "'ties'")),
        (("merge", "a", "b", "--out", "o", "--save-as", "float8"), ("'float8'",)),
        (("merge", "a", "b", "--out", "o", "--option", f"rank={'[' * 9999}"), ("is no value",)),
        (("score", "none.jsonl", "--task", TASK, "--metrics", "rouge"), ("'rouge'", "rougeL")),
        (("export", "c", "--out", "o", "--save-as", "float8"), ("'float8'",)),
        (("export", "c", "--out", "o", "--base-type", "f16"), ("--base-type", "--format peft")),
        (("generate", "c", "-i", "x", "--served", "a"), ("--served", "--endpoint")),
        (("generate", "c", "-i", "x", "--retries", "1"), ("--retries", "--endpoint")),
        (("generate", "c", "-i", "x", "--endpoint", "u", "--served", "a", "--dtype", "float16"),
         ("--dtype", "a server")),
        (("data", "prepare", "--out", "o", "--device", "gpu"), ("device 'gpu'", "'cpu'")),
        (("data", "prepare", "--out", "o", "--tasks", TASK), ("needs a labeller",)),
        (("data", "prepare", "--out", "o", "--tasks", TASK, "--translate-with", "seq2seq"),
         ("--translator es=MODEL",)),
        (("judge", "runs", "--judge", "m", "--max-cost", "1"), ("--max-cost", "--endpoint")),
        (("judge", "runs", "--endpoint", "u", "--judge-model", "m", "--device", "cpu"),
         ("--device", "a server")),
    ],
)  # fmt: skip
def test_a_wrong_value(
    command: tuple[str, ...], words: tuple[str, ...], nothing_is_read: None, tmp_path: Path,
    capsys: Capture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    onepass(capsys, *command).refused(*words)
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    "command",
    [
        ("train", "summarize"),
        ("calibrate", TASK),
        ("merge", "a", "b"),
        *(("export", "c", "--format", each) for each in ("peft", "merged", "gguf", "mlx", "vllm")),
        ("pack", "c"),
    ],
)
def test_a_folder_that_may_not_be_replaced(
    command: tuple[str, ...], nothing_is_read: None, tmp_path: Path, capsys: Capture
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "keep.txt").write_text("mine")
    onepass(capsys, *command, "--out", full).refused(str(full), "keep.txt", "would delete")
    assert listing(full) == {"keep.txt": b"mine"}


@pytest.mark.parametrize(
    ("command", "name"),
    [("pretrain", "final"), ("pretrain", "checkpoint"), ("demo", "lc"), ("demo", "lc++")],
)
def test_a_folder_in_the_output_that_may_not_be_replaced(
    command: str, name: str, nothing_is_read: None, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "keep.rst").write_text("mine")
    onepass(capsys, command, "--out", tmp_path).refused(name, "keep.rst", "would delete")
    assert listing(tmp_path) == {f"{name}/keep.rst": b"mine"}


def test_a_file_that_may_not_be_written(
    nothing_is_read: None, tmp_path: Path, capsys: Capture
) -> None:
    export = ("data", "export", "summarize", "--out", tmp_path)
    onepass(capsys, *export).refused("cannot write", str(tmp_path))


def test_verifying_takes_a_folder_and_no_more(tmp_path: Path, capsys: Capture) -> None:
    for more in (("--out", "o"), ("--base-type", "nonsense"), ("--fused",), ("--model", "m")):
        onepass(capsys, "pack", "verify", tmp_path, *more).refused(more[0], "pack verify")


def test_a_bench_on_a_device_there_is_not(
    nothing_is_read: None, tmp_path: Path, capsys: Capture
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"{{name: n, device: gpu, methods: [linear], tasks: [{TASK}]}}")
    command = ("bench", recipe, "--out", tmp_path / "out", "--workers", "0")
    onepass(capsys, *command).refused("device 'gpu'", "'cpu'")
    assert not (tmp_path / "out").exists()


def test_a_report_where_a_file_stands(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("mine")
    onepass(capsys, "report", tmp_path / "none", "--out", tmp_path / "file").refused(
        "cannot write", "a file of that name exists"
    )
