"""`onepass merge`: from folders to a folder, and what it refuses."""

from pathlib import Path

import pytest
import torch

import onepass as package
from adapter_kit import dense_sum, random_adapter
from cli_kit import onepass
from onepass.adapters.adapter import load_adapter, save_adapter


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    for seed in range(2):
        save_adapter(random_adapter(seed), tmp_path / f"a{seed}")
    return [tmp_path / "a0", tmp_path / "a1"]


def test_a_merge_is_saved_as_an_adapter(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    done = onepass(capsys, "merge", *folders, "--out", out, "--save-as", "float32")
    assert "6 modules, rank 6" in done.succeeded().err
    assert "norm" not in done.err
    merged, parts = load_adapter(out), [load_adapter(folder) for folder in folders]
    for module, lora in merged.modules.items():
        expected = dense_sum([part.modules[module] for part in parts], [0.5, 0.5])
        assert torch.allclose(lora.delta().double(), expected, atol=1e-5)


def test_options_and_weights_reach_the_method(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    done = onepass(
        capsys, "merge", *folders, "-o", out, "--method", "dare-ties", "--rank", 2, "--seed", 5,
        "--option", "density=0.7", "variant=mergekit", "--weights", "1", "q_proj=0.5,*=0.25",
    )  # fmt: skip
    assert "norm" in done.succeeded().err
    card = load_adapter(out).card
    assert card["options"] == {"density": 0.7, "variant": "mergekit", "space": "full"}
    assert card["weights"] == [1.0, {"q_proj": 0.5, "*": 0.25}]
    assert (card["rank"], card["seed"]) == (2, 5)


def test_weights_may_be_negative(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, weights in enumerate((["0.3", "-0.3"], ["-.5", "1"])):
        out = tmp_path / f"merged-{number}"
        onepass(capsys, "merge", *folders, "--weights", *weights, "--out", out).succeeded()
        assert load_adapter(out).card["weights"] == [float(weight) for weight in weights]


def test_the_package_merges_folders(folders: list[Path]) -> None:
    merged = package.merge(folders, method="ties", weights=[1.0, 0.5], density=0.4)
    assert merged.card["options"]["density"] == 0.4


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--method", "tie"], ["did you mean 'ties'"]),
        (["--option", "density"], ["name=value"]),
        (["--option", "density=0.5"], ["merge linear has no options"]),
        (["--option", "seed=3"], ["merge linear has no options"]),
        (["--weights", "half", "1"], ["'half' is no number"]),
        (["--weights", "1"], ["give one weight per adapter"]),
        (["--rank", "100"], ["rank 100 is not possible", "up to 8"]),
        (["--seed", "9" * 25], ["seed is 999"]),
        (["--weights", "qproj=5,*=1", "1"], ["unknown module to weigh 'qproj'", "q_proj"]),
        (["--method", "della", "--option", "epsilon=x"], ["epsilon is 'x'"]),
        (
            ["--method", "ties", "--option", "density=0.2", "density=0.9"],
            ["density is given twice"],
        ),
        (["--save-as", "float8"], ["unknown dtype"]),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(
    extra: list[str], words: list[str], folders: list[Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    onepass(capsys, "merge", *folders, "--out", tmp_path / "m", *extra).refused(*words)
    assert not (tmp_path / "m").exists()


def test_a_broken_adapter_is_named(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = folders[1] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    onepass(capsys, "merge", *folders, "--out", tmp_path / "m").refused(str(weights))
