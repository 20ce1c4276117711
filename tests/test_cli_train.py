"""`onepass train`, `calibrate` and `pretrain`: what they leave behind."""

import inspect
import json
from pathlib import Path

import pytest
import torch

from adapter_kit import same_numbers
from cli_kit import FAST, TASK, conversations, onepass, save_adapters, write_rows
from conftest import MakeAdapter
from onepass.adapters.adapter import load_adapter
from onepass.adapters.composition import cost, load_composition
from onepass.api.outputs import resumable
from onepass.cli import pretrain as command
from onepass.cli.options import parse_count
from onepass.core.errors import OnepassError
from onepass.model.load import Base, load_base
from onepass.model.training import fit
from onepass.smalltown.pretraining import PretrainOptions

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "data.jsonl", conversations())


def test_train_leaves_an_adapter_with_its_card(
    tmp_path: Path, base_folder: Path, data: Path, capsys: Capture
) -> None:
    out = tmp_path / "adapter"
    done = onepass(
        capsys, "train", "summarize", "--model", base_folder, "--corpus", data, "--out", out,
        "--rank", 2, "--test", 2, *FAST,
    ).succeeded()  # fmt: skip
    adapter = load_adapter(out)
    assert adapter.base == str(base_folder)
    assert {lora.rank for lora in adapter.modules.values()} == {2}
    assert adapter.card["task"]["name"] == "summarize"
    assert adapter.card["corpus"] == str(data)
    assert adapter.card["steps"] == 2
    assert "validation loss" in done.err
    assert "R-L" in done.out
    assert "verified" not in done.out  # the verifier has nothing to say on other data
    assert not Path(f"{out}.state").exists()


def test_training_on_smalltown_is_judged_by_the_verifier(
    tmp_path: Path, base_folder: Path, capsys: Capture
) -> None:
    done = onepass(
        capsys, "train", "translate:es", "--model", base_folder, "--out", tmp_path / "adapter",
        "--rank", 2, "--examples", 8, "--test", 2, "--max-tokens", 190, *FAST,
    ).succeeded()  # fmt: skip
    assert [line.split("\t")[0] for line in done.out.splitlines()][-1] == "verified"


def test_an_interrupted_training_ends_as_one_that_was_not(
    tmp_path: Path, base_folder: Path, data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:

    def command(out: Path) -> list[object]:
        return ["train", "summarize", "--model", base_folder, "--corpus", data, "--out", out,
                "--rank", 2, *FAST, "--steps", 4]  # fmt: skip

    onepass(capsys, *command(tmp_path / "whole")).succeeded()
    step = fit._Training.step
    done_steps: list[int] = []

    def interrupted(self: object) -> float:
        if len(done_steps) == 2:
            raise KeyboardInterrupt
        done_steps.append(1)
        return step(self)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(fit._Training, "step", interrupted)
        done = onepass(capsys, *command(tmp_path / "cut"))
    assert done.code == 130
    assert str(tmp_path / "cut.state") in done.err
    assert not (tmp_path / "cut").exists()
    onepass(capsys, *command(tmp_path / "cut")).succeeded()
    assert same_numbers(load_adapter(tmp_path / "whole"), load_adapter(tmp_path / "cut"))


@pytest.mark.parametrize(
    ("options", "method", "form"),
    [
        (["--kind", "lc++", "--rank", 3], "lc++", "lowrank"),
        (["--kind", "lc"], "lc", "output"),
        (["--kind", "lc", "--form", "column"], "lc-column", "column"),
        (["--kind", "core"], "core", "core"),
        (["--kind", "lc-gain"], "lc-gain", "gain"),
        (["--kind", "cat"], "cat", "weights"),
    ],
)
def test_calibrate_leaves_a_composition_of_any_adapters_and_data(
    options: list[object], method: str, form: str, tmp_path: Path, base_folder: Path, base: Base,
    data: Path, make_adapter: MakeAdapter, capsys: Capture,
) -> None:  # fmt: skip
    out = tmp_path / "composition"
    done = onepass(
        capsys, "calibrate", TASK, "--model", base_folder, "--data", data, "--out", out,
        "--adapters", *save_adapters(tmp_path, make_adapter), *options, *FAST,
    ).succeeded()  # fmt: skip
    composition = load_composition(out)
    (pass_,) = composition.passes
    assert (composition.task.name, composition.method) == (TASK, method)
    assert [(w.adapter.name, w.weight, w.stored) for w in pass_.adapters] == [
        ("summarize", 0.5, False),
        ("spanish", 0.5, False),
    ]
    assert pass_.calibration is not None
    assert pass_.calibration.form == form
    assert all(
        tensor.dtype == torch.float16
        for parts in pass_.calibration.tensors.values()
        for tensor in parts.values()
    )
    spent = cost(composition)
    files = sum(file.stat().st_size for file in out.glob("calibration-*.safetensors"))
    assert spent.extra_bytes == files
    assert f"1 pass, {spent.extra_parameters:,} extra parameters, {files:,} extra bytes" in done.err
    assert not Path(f"{out}.state").exists()


def test_the_base_tiny_has_adapters_of_its_own(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onepass.model import assets

    monkeypatch.setattr(assets, "files", lambda package: tmp_path / package)
    done = onepass(capsys, "calibrate", TASK, "--out", tmp_path / "out", "--examples", 1)
    done.refused(str(tmp_path / "onepass" / "assets" / "adapters" / "summarize"))


def test_calibrate_wants_one_adapter_per_part(
    tmp_path: Path, base_folder: Path, data: Path, make_adapter: MakeAdapter, capsys: Capture
) -> None:
    one = save_adapters(tmp_path, make_adapter)[:1]
    common = ("calibrate", TASK, "--model", base_folder, "--data", data, "--out", tmp_path / "out")
    onepass(capsys, *common).refused("--adapters", "summarize and translate:es")
    onepass(capsys, *common, "--adapters", *one).refused("1 adapters", "2 parts")


def test_pretrain_makes_a_base(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = onepass(
        capfd, "pretrain", "--out", tmp_path / "base", "--tokens", "20", "--processes", 1,
        "--hidden", 16, "--mlp", 16, "--layers", 1, "--heads", 2, "--vocab-size", 600,
    ).succeeded()  # fmt: skip
    assert json.loads(done.out.splitlines()[0])["tokens"] >= 20
    base = load_base(tmp_path / "base" / "final", "cpu")
    assert base.model.config.hidden_size == 16


def test_the_command_as_it_stands_makes_the_embedded_base() -> None:
    """Its defaults are those of the options, which the shipped base was made with."""
    given = {
        name: parameter.default
        for name, parameter in inspect.signature(command.pretrain).parameters.items()
        if name != "out"
    }
    given["tokens"] = parse_count(given["tokens"])
    assert PretrainOptions(**given) == PretrainOptions()


def test_pretrain_refuses_a_shape_that_cannot_be(tmp_path: Path, capsys: Capture) -> None:
    out = ("--out", tmp_path / "base")
    onepass(capsys, "pretrain", *out, "--hidden", 30, "--heads", 4).refused("heads 4")
    onepass(capsys, "pretrain", *out, "--tokens", "many").refused("'many'")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("text", "count"), [("7", 7), ("500K", 500_000), ("40M", 40_000_000), ("1.5g", 1_500_000_000)]
)
def test_counts_may_be_written_short(text: str, count: int) -> None:
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "-3", "M", "4Q", "nanM"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(OnepassError, match="count"):
        parse_count(text)


def test_a_state_stays_until_the_work_succeeds(tmp_path: Path) -> None:
    out = tmp_path / "out"
    state = tmp_path / "out.state"
    state.mkdir()
    with pytest.raises(OnepassError), resumable(out):
        raise OnepassError("disk full")
    assert state.exists()
    with resumable(out) as again:
        assert again == state
    assert not state.exists()
