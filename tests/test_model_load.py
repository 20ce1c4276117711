"""Loading: what is found, and what is refused with a reason."""

import shutil
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever it uses
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from onepass.core.errors import OnepassError
from onepass.model import load, quantized
from onepass.model.load import Base, load_base
from onepass.model.targets import base_shape

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(base_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base_folder, tmp_path / "copy"))


def test_a_loaded_base_is_frozen_and_named_by_where_it_is(base: Base, base_folder: Path) -> None:
    assert base.name == str(base_folder)
    assert repr(base) == f"<Base {base_folder}: 25,120 parameters, float32 on cpu>"
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert base.context == 192
    assert base.tokenizer.convert_ids_to_tokens(base.end_id) == "<|end|>"
    assert {base.end_id, base.tokenizer.eos_token_id} <= base.stop_ids


def test_the_shape_lists_every_projection_of_every_layer(base: Base) -> None:
    assert len(base.shape.modules) == 2 * 7
    assert base.shape.modules["model.layers.1.self_attn.k_proj"] == (16, 32)
    assert base.shape.modules["model.layers.0.mlp.down_proj"] == (32, 48)


def test_a_shape_needs_no_weights() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, hidden_size=64))
    shape = base_shape(model, name="big")
    assert shape.modules["model.layers.0.self_attn.q_proj"] == (64, 64)
    assert len(shape.modules) == 7


@pytest.mark.parametrize("size", [0, 5, 3000])
def test_cut_weights_are_refused(folder: Path, size: int) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:size])
    with pytest.raises(OnepassError, match="cannot load the base"):
        load_base(folder, device="cpu")


def test_absent_weights_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "elsewhere.bin")
    with pytest.raises(OnepassError, match="cannot load the base"):
        load_base(folder, device="cpu")


def test_pickled_weights_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(OnepassError, match="safetensors"):
        load_base(folder, device="cpu")


def test_a_missing_tensor_is_named(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(OnepassError, match=r"layers\.1\.mlp\.up_proj"):
        load_base(folder, device="cpu")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_refused(folder: Path, bad: float) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"][3] = bad
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(OnepassError, match=r"NaN or infinity in model\.norm\.weight"):
        load_base(folder, device="cpu")


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OnepassError, match=r"no config\.json"):
        load_base(tmp_path)
    with pytest.raises(OnepassError, match="there is no folder"):
        load_base(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(OnepassError, match="is no GGUF file"):
        load_base(tmp_path / "file")


def test_unknown_devices_and_dtypes_are_refused(base_folder: Path) -> None:
    with pytest.raises(OnepassError, match="device 'toaster'"):
        load_base(base_folder, device="toaster")
    with pytest.raises(OnepassError, match="did you mean 'bfloat16'"):
        load_base(base_folder, device="cpu", dtype="bfloat15")


@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_taken_where_it_is_fast(
    base_folder: Path, monkeypatch: pytest.MonkeyPatch, has: bool
) -> None:
    found = {"avx512_bf16": has, "amx_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    kind = torch.bfloat16 if has else torch.float32
    assert load_base(base_folder, "cpu", "fast").model.dtype == kind
    assert load_base(base_folder, "cpu").model.dtype == torch.float32
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert load_base(base_folder, "cpu", "bfloat16").model.dtype == torch.bfloat16
    assert any('dtype "fast"' in str(each.message) for each in caught) is not has


# ---------------------------------------------------------------- the hub

RESPONSE = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co/acme/x"))
ANSWERS = {
    "gated": (
        GatedRepoError("403 Client Error", response=RESPONSE),
        ["accept the model's licence", "huggingface.co/acme/chat", "hf auth login", "HF_TOKEN"],
    ),
    "absent": (
        RepositoryNotFoundError("401 Client Error", response=RESPONSE),
        ["no such model on the hub", "check the spelling", "hf auth login"],
    ),
    "offline": (
        OfflineModeIsEnabled("offline mode is enabled"),
        ["safetensors weights of", "would be downloaded", "hf download acme/chat", "HF_HOME"],
    ),
    "unreachable": (
        LocalEntryNotFoundError("cannot find the file in the cache"),
        ["hf download acme/chat --local-dir acme/chat", "name that"],
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_the_hub_answers_is_told_with_what_to_do(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, words = ANSWERS[answer]

    def refuse(*args: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(transformers.utils.hub, "hf_hub_download", refuse)
    monkeypatch.setattr(HfApi, "resolve_revision", refuse)
    with pytest.raises(OnepassError) as refused:
        load_base("acme/chat", device="cpu")
    for word in words:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_that_the_hub_cannot_have_is_refused() -> None:
    with pytest.raises(OnepassError, match="cannot be a hub name, which is OWNER/MODEL"):
        load_base("two words", device="cpu")


def test_a_folder_of_the_hubs_cache_needs_its_snapshot(tmp_path: Path) -> None:
    folder = tmp_path / "models--acme--chat"
    (folder / "snapshots").mkdir(parents=True)
    with pytest.raises(OnepassError, match="name a folder in its snapshots"):
        load_base(folder, device="cpu")


# ---------------------------------------------------------------- devices and quantisation


def test_quantisation_needs_a_gpu(base_folder: Path) -> None:
    with pytest.raises(OnepassError, match="quantization 4bit needs a CUDA GPU"):
        load_base(base_folder, device="cpu", quantization="4bit")
    with pytest.raises(OnepassError, match="did you mean '4bit'"):
        load_base(base_folder, device="cpu", quantization="4bits")


def test_quantisation_names_the_package_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: False)
    with pytest.raises(OnepassError, match=r"pip install 'onepass\[quantized\]'"):
        quantized.quantization_config("8bit", gpu, torch.bfloat16)
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: True)
    four = quantized.quantization_config("4bit", gpu, torch.bfloat16)
    assert four.load_in_4bit
    assert four.bnb_4bit_compute_dtype is torch.bfloat16
    assert quantized.quantization_config("8bit", gpu, torch.bfloat16).load_in_8bit


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_balanced_base_needs_gpus(base_folder: Path) -> None:
    with pytest.raises(OnepassError, match="'balanced' spreads a base over GPUs"):
        load_base(base_folder, device="balanced")


def test_a_base_placed_by_accelerate_is_the_same(
    base_folder: Path, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without GPUs accelerate puts all on the CPU, but the way there is that of several GPUs."""
    monkeypatch.setattr(load, "_device", lambda name: torch.device("cpu"))
    placed = load_base(base_folder, device="balanced")
    ids = torch.arange(8)[None]

    assert torch.equal(placed.model(ids).logits, base.model(ids).logits)
