"""Calibrations as data: what they must look like, and how they are stored."""

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from adapter_kit import random_calibration, same_tensor
from onepass.adapters import storage
from onepass.adapters.calibration import (
    Calibration,
    Form,
    calibration_bytes,
    load_calibration,
    save_calibration,
)
from onepass.core.errors import OnepassError

FORMS: list[Form] = ["output", "column", "lowrank"]


def same(one: Calibration, other: Calibration) -> bool:
    return (
        (one.kind, one.form) == (other.kind, other.form)
        and one.tensors.keys() == other.tensors.keys()
        and all(
            same_tensor(tensor, other.tensors[projection][part])
            for projection, parts in one.tensors.items()
            for part, tensor in parts.items()
        )
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saved_and_loaded_is_identical(form: Form, dtype: torch.dtype, tmp_path: Path) -> None:
    calibration = random_calibration(form)
    path = tmp_path / "c.safetensors"
    save_calibration(calibration, path, dtype)
    loaded = load_calibration(path)
    assert loaded.parameter_count == calibration.parameter_count
    if dtype == torch.float32:
        assert same(loaded, calibration)
    save_calibration(loaded, tmp_path / "again.safetensors")
    assert same(load_calibration(tmp_path / "again.safetensors"), loaded)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@given(form=st.sampled_from(FORMS), rank=st.integers(1, 6), half=st.booleans())
def test_bytes_are_those_of_the_file(
    form: Form, rank: int, half: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "c.safetensors"
    calibration, dtype = random_calibration(form, rank=rank), torch.bfloat16 if half else None
    save_calibration(calibration, path, dtype)
    assert path.stat().st_size == calibration_bytes(calibration, dtype)
    assert path.stat().st_size > calibration.parameter_count * (2 if half else 4)


def test_trained_parameters_are_saved_without_their_graph(tmp_path: Path) -> None:
    bias = torch.zeros(4, requires_grad=True)
    save_calibration(Calibration("lc", "output", {"q_proj": {"bias": bias}}), tmp_path / "c")
    assert not load_calibration(tmp_path / "c").tensors["q_proj"]["bias"].requires_grad


@pytest.mark.parametrize(
    ("kind", "form", "parts", "message"),
    [
        ("lora", "output", {}, "kind 'lora'"),
        ("lc", "lowrank", {}, "form 'lowrank' of lc: expected output or column"),
        ("lc++", "output", {}, "expected lowrank"),
        ("lc", "output", {"q_proj": {"up": (4, 2)}}, r"lc has \['bias'\], found \['up'\]"),
        ("lc", "output", {"q_proj": {"bias": (4, 1)}}, r"should be \(out,\)"),
        ("lc++", "lowrank", {"q_proj": {"down": (2, 4), "up": (4, 3)}}, r"should be \(r, in\)"),
        ("lc", "output", {"": {"bias": (4,)}}, "such as 'q_proj'"),
    ],
)
def test_what_is_no_calibration_is_refused(
    kind: Any, form: Any, parts: dict[str, dict[str, tuple[int, ...]]], message: str
) -> None:
    tensors = {p: {n: torch.zeros(s) for n, s in named.items()} for p, named in parts.items()}
    with pytest.raises(OnepassError, match=message):
        Calibration(kind, form, tensors)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused_both_ways(bad: float, tmp_path: Path) -> None:
    calibration = random_calibration("output")
    calibration.tensors["q_proj"]["bias"][1] = bad
    with pytest.raises(OnepassError, match=r"q_proj\.bias: 1 of 8 values are NaN or Inf"):
        save_calibration(calibration, tmp_path / "c.safetensors")
    assert not list(tmp_path.iterdir())
    save_file({"q_proj.bias": torch.tensor([bad])}, tmp_path / "c.safetensors")
    with pytest.raises(OnepassError, match=r"c\.safetensors, tensor q_proj\.bias"):
        load_calibration(tmp_path / "c.safetensors")


def test_values_too_large_for_the_dtype_are_refused(tmp_path: Path) -> None:
    calibration = Calibration("lc", "output", {"q_proj": {"bias": torch.tensor([1e6])}})
    with pytest.raises(OnepassError, match=r"1e\+06 do not fit torch\.float16"):
        save_calibration(calibration, tmp_path / "c", torch.float16)


def test_files_that_are_no_calibration_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(OnepassError, match="does not exist"):
        load_calibration(path)
    save_file({"q_proj.bias": torch.zeros(4)}, path)
    with pytest.raises(OnepassError, match="is no calibration"):
        load_calibration(path)
    key = "onepass.calibration"
    save_file({"q_proj.bias": torch.zeros(4)}, path, {key: "[" * 100_000})
    with pytest.raises(OnepassError, match="is no calibration"):
        load_calibration(path)
    save_file({"q_proj.bias": torch.zeros(4)}, path, {key: '{"kind": "x", "form": "output"}'})
    with pytest.raises(OnepassError, match="unknown calibration kind 'x'"):
        load_calibration(path)
    save_file({"q_proj.up": torch.zeros(4)}, path, {key: '{"kind": "lc", "form": "output"}'})
    with pytest.raises(OnepassError, match=r"c\.safetensors: calibration of q_proj"):
        load_calibration(path)
    save_file({"q_proj.bias": torch.zeros(4, dtype=torch.int8)}, path)
    with pytest.raises(OnepassError, match=r"dtype torch\.int8 is not supported"):
        load_calibration(path)


@given(kept=st.integers(0, 10**6))
def test_a_file_cut_short_anywhere_is_refused(
    kept: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "c.safetensors"
    save_calibration(random_calibration("lowrank"), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: kept % len(whole)])
    with pytest.raises(OnepassError, match="corrupt or cut short"):
        load_calibration(path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    save_calibration(random_calibration("output"), path)
    before = path.read_bytes()

    def full(tensors: Any, filename: Path, metadata: Any) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(OnepassError, match=r"cannot write .*c\.safetensors: No space left"):
        save_calibration(random_calibration("output", seed=1), path)
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OnepassError, match=r"cannot write .*file/c\.safetensors"):
        save_calibration(random_calibration("output"), tmp_path / "file" / "c.safetensors")
