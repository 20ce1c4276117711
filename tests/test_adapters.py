"""Adapters as data and on disk; that PEFT reads the same is in test_adapters_peft.py."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapter_kit import random_adapter, random_calibration, same_numbers, small_base
from onepass.adapters import storage
from onepass.adapters.adapter import (
    Adapter,
    Lora,
    adapter_bytes,
    layer,
    load_adapter,
    projection,
    save_adapter,
)
from onepass.adapters.lora import short_count
from onepass.core.errors import OnepassError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TYPES = ["CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", None]
Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The folder of a good adapter, to be spoilt."""
    save_adapter(random_adapter(0), tmp_path / "good")
    return tmp_path / "good"


def change_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **fields}))


def as_written(folder: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    return {
        name: tensor.to(dtype or tensor.dtype)
        for name, tensor in load_file(folder / WEIGHTS).items()
    }


@given(ranks=st.lists(st.integers(1, 7), min_size=6, max_size=6), task=st.sampled_from(TYPES))
@settings(max_examples=20)
def test_saved_in_factors_of_one_rank_and_loaded_is_identical(
    ranks: list[int], task: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("adapters") / "a"
    adapter = random_adapter(0, ranks=dict(zip(small_base().modules, ranks, strict=True)))
    adapter = replace(adapter, task_type=task)
    save_adapter(adapter, folder)
    loaded = load_adapter(folder)
    assert same_numbers(loaded, adapter)
    rows = {len(x) for key, x in load_file(folder / WEIGHTS).items() if "lora_A" in key}
    assert rows == {max(ranks)}
    assert (loaded.name, loaded.base, loaded.card) == (adapter.name, adapter.base, adapter.card)
    assert loaded.task_type == task
    assert adapter_bytes(folder) == adapter_bytes(adapter)


@given(powers=st.lists(st.integers(-14, 14), min_size=3, max_size=3))
@settings(max_examples=30)
def test_in_sixteen_bits_only_rounding_is_lost_and_the_card_says_how_much(
    powers: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However unlike `up` and `down` are: float16 holds 6e-8 to 65504, and 11 bits."""
    folder = tmp_path_factory.mktemp("narrow") / "a"
    scale = torch.tensor([10.0**power for power in powers])
    modules = {
        module: Lora(lora.down * scale[:, None], lora.up / scale)
        for module, lora in random_adapter(0).modules.items()
    }
    save_adapter(Adapter("a", modules), folder, torch.float16)
    loaded, missed, size = load_adapter(folder), 0.0, 0.0
    for module, lora in modules.items():
        exact = lora.up.double() @ lora.down.double()
        found = loaded.modules[module]
        missed += float((found.up.double() @ found.down.double() - exact).square().sum())
        size += float(exact.square().sum())
    assert loaded.card["rounding_error"] == pytest.approx((missed / size) ** 0.5, rel=0.05)
    assert loaded.card["rounding_error"] < 5e-4


def test_what_is_printed_of_tensors_is_one_short_line() -> None:
    adapter = random_adapter(0, ranks={"model.layers.0.mlp.down_proj": 5}, name="summarize")
    assert repr(adapter) == (
        "Adapter('summarize', 6 modules, rank 3-5, 328 parameters, base org/small)"
    )
    assert repr(Adapter("none", {})) == (
        "Adapter('none', 0 modules, rank 0, 0 parameters, base unknown)"
    )
    assert repr(adapter.modules["model.layers.0.self_attn.v_proj"]) == (
        "Lora(rank 3, (out, in) (4, 8), torch.float32)"
    )
    assert repr(random_calibration("lowrank")) == (
        "Calibration(lc++ lowrank, 3 projections, 96 parameters)"
    )
    shown = [short_count(count) for count in (999, 12_345, 4_900_000, 10**9)]
    assert shown == ["999", "12.3K", "4.9M", "1.0B"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_narrow_file_is_read_as_it_is_and_saves_to_the_same_bytes(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    save_adapter(random_adapter(0), tmp_path / "one", dtype)
    loaded = load_adapter(tmp_path / "one")
    save_adapter(loaded, tmp_path / "two")
    assert loaded.modules["model.layers.0.self_attn.q_proj"].up.dtype == dtype
    for file in (CONFIG, WEIGHTS, "card.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert adapter_bytes(tmp_path / "one") == adapter_bytes(random_adapter(0), dtype)


def test_layers_come_in_the_order_of_the_model(tmp_path: Path) -> None:
    base = small_base(layers=12)
    save_adapter(random_adapter(0, rank=1, base=base), tmp_path / "a")
    loaded = list(load_adapter(tmp_path / "a").modules)
    assert [layer(module) for module in loaded] == sorted(layer(m) or 0 for m in base.modules)


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [
        ({"lora_alpha": 6}, 2.0),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / 3**0.5),
        ({"alpha_pattern": {r"layers\.0\..*q_proj": 12}}, 4.0),
        ({"alpha_pattern": None, "rank_pattern": None}, 1.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaling_is_folded_in_without_rounding(
    saved: Path, fields: dict[str, Any], scaling: float, dtype: torch.dtype
) -> None:
    save_file(as_written(saved, dtype), saved / WEIGHTS)
    change_config(saved, **fields)
    factors = as_written(saved, torch.float64)
    expected = scaling * factors[f"{Q}.lora_B.weight"] @ factors[f"{Q}.lora_A.weight"]
    lora = load_adapter(saved).modules["model.layers.0.self_attn.q_proj"]
    assert torch.allclose(lora.delta().double(), expected, rtol=1e-2 if scaling == 1 else 1e-5)
    assert lora.up.dtype == (dtype if scaling == 1 else torch.float32)


def test_names_default_to_the_folder(saved: Path) -> None:
    (saved / "card.json").unlink()
    change_config(saved, base_model_name_or_path="")
    loaded = load_adapter(saved)
    assert (loaded.name, loaded.base, loaded.card) == ("good", None, {})


def test_module_paths_are_taken_apart() -> None:
    assert projection("model.layers.10.self_attn.q_proj") == "q_proj"
    assert projection("lm_head") == "lm_head"
    assert layer("model.layers.10.self_attn.q_proj") == 10
    assert layer("lm_head") is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, r"adapter_config\.json: use_dora = True is not supported \(DoRA"),
        ({"use_nextlora": True}, "use_nextlora = True .* not known here"),
        ({"next_config": {"a": 1}}, "next_config = .* not known here"),
        ({"peft_type": None}, "only LORA"),
        ({"r": 0}, "field r: .* greater than 0"),
        ({"r": "many"}, r"field r: .*\(found 'many'\)"),
        ({"rank_pattern": {"q_proj": 0}}, r"field rank_pattern\.q_proj"),
        ({"alpha_pattern": {"(": 3}}, "no regular expression"),
        ({"lora_alpha": float("nan")}, "field lora_alpha"),
        ({"r": 4}, r"down_proj has factors \(3, 12\) and \(8, 3\), but .* says rank 4"),
    ],
)
def test_what_is_no_plain_lora_is_refused_and_why(
    saved: Path, fields: dict[str, Any], message: str
) -> None:
    change_config(saved, **fields)
    with pytest.raises(OnepassError, match=message):
        load_adapter(saved)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({f"{Q}.lora_magnitude_vector": torch.ones(8)}, "lora_magnitude_vector is no LoRA factor"),
        ({f"{Q}.lora_B.bias": torch.ones(8)}, r"lora_B\.bias is no LoRA factor"),
        ({"base_model.model.lm_head.weight": torch.ones(4, 4)}, "lm_head.weight is no LoRA"),
        ({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 4)}, "embeddings"),
        ({f"{Q}.lora_A.other.weight": torch.ones(3, 8)}, "second lora_A of .* more than one ad"),
        ({f"base_model.model.{Q}.lora_B.weight": torch.ones(8, 3)}, "second lora_B of model.lay"),
        ({f"{Q}.lora_A.weight": torch.ones(3, 8, 1)}, r"factors \(3, 8, 1\)"),
        ({f"{Q}.lora_A.weight": torch.ones(3, 8, dtype=torch.int32)}, r"torch\.int32"),
        ({f"{Q}.lora_A.weight": torch.full((3, 8), torch.nan)}, "24 of 24 values are NaN or Inf"),
        ({f"{Q}.lora_A.weight": torch.full((3, 8), torch.inf)}, "24 of 24 values are NaN or Inf"),
    ],
)
def test_weights_that_are_no_plain_lora_are_refused(
    saved: Path, added: dict[str, Tensor], message: str
) -> None:
    save_file({**load_file(saved / WEIGHTS), **added}, saved / WEIGHTS)
    with pytest.raises(OnepassError, match=message):
        load_adapter(saved)


def test_a_factor_without_its_partner_is_refused(saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS)
    del tensors[f"{Q}.lora_B.weight"]
    save_file(tensors, saved / WEIGHTS)
    with pytest.raises(OnepassError, match="q_proj lacks its factor lora_B"):
        load_adapter(saved)
    save_file({}, saved / WEIGHTS)
    with pytest.raises(OnepassError, match="holds no LoRA factors"):
        load_adapter(saved)


def test_missing_files_are_named(saved: Path) -> None:
    with pytest.raises(OnepassError, match=r"nowhere is not a folder.* or its hub name"):
        load_adapter(saved / "nowhere")
    weights = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).unlink()
    with pytest.raises(OnepassError, match=r"adapter_model\.safetensors does not exist"):
        load_adapter(saved)
    with pytest.raises(OnepassError, match=r"adapter_model\.safetensors does not exist"):
        adapter_bytes(saved)
    (saved / "adapter_model.bin").write_bytes(weights)
    with pytest.raises(OnepassError, match="pickle files can run code"):
        load_adapter(saved)
    (saved / CONFIG).unlink()
    with pytest.raises(OnepassError, match=r"adapter_config\.json"):
        load_adapter(saved)


def test_bad_numbers_and_empty_adapters_are_not_saved(tmp_path: Path) -> None:
    adapter = random_adapter(0)
    adapter.modules["model.layers.0.self_attn.q_proj"].up[0, 0] = float("inf")
    with pytest.raises(OnepassError, match=r"lora_B\.weight: 1 of 24 values are NaN or Inf"):
        save_adapter(adapter, tmp_path / "a")
    adapter.modules["model.layers.0.self_attn.q_proj"].up[0, 0] = 1e12
    with pytest.raises(OnepassError, match=r"do not fit torch\.float16"):
        save_adapter(adapter, tmp_path / "a", torch.float16)
    with pytest.raises(OnepassError, match="nothing to save"):
        save_adapter(Adapter("empty", {}), tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left"),
        (SafetensorError("I/O error: disk quota exceeded"), "disk quota exceeded"),
    ],
)
def test_a_full_disk_leaves_what_was_there(
    error: Exception, reason: str, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(tensors: Any, filename: Path, metadata: Any) -> None:
        Path(filename).write_bytes(b"half")
        raise error

    monkeypatch.setattr(storage, "save_file", full)
    for name in ("good", "new"):
        with pytest.raises(OnepassError, match=rf"cannot write .*{name}: .*{reason}"):
            save_adapter(random_adapter(1), saved.parent / name)
    assert [path.name for path in saved.parent.iterdir()] == ["good"]
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600)])
def test_whom_the_umask_lets_read_may_read_all_of_it(
    umask: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onepass.core.files._UMASK", umask)
    save_adapter(random_adapter(0), tmp_path / "good")
    files = sorted((tmp_path / "good").iterdir())
    assert {file.stat().st_mode & 0o777 for file in files} == {expected}


def test_saving_over_an_adapter_replaces_it(saved: Path) -> None:
    save_adapter(random_adapter(1), saved)
    assert same_numbers(load_adapter(saved), random_adapter(1))
    assert [path.name for path in saved.parent.iterdir()] == ["good"]


def test_saving_never_costs_anyone_their_files(saved: Path, tmp_path: Path) -> None:
    (saved / "thesis.tex").write_text("years of work")
    with pytest.raises(OnepassError, match=r"holds thesis\.tex, which saving here would delete"):
        save_adapter(random_adapter(1), saved)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").write_text("not an adapter's")
    with pytest.raises(OnepassError, match=r"holds README\.md"):
        save_adapter(random_adapter(1), tmp_path / "docs")
    assert same_numbers(load_adapter(saved), random_adapter(0))
