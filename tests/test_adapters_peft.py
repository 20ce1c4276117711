"""PEFT as oracle: it reads what we save, we read what it saves, and merges agree."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor

from adapter_kit import random_adapter
from onepass.adapters.adapter import Adapter, load_adapter, save_adapter
from onepass.adapters.merging import merge
from onepass.adapters.shape import BaseShape

TARGETS = ["q_proj", "k_proj", "down_proj"]


@cache
def model() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=32,
    )
    return transformers.LlamaForCausalLM(config)


def fresh() -> Any:
    return copy.deepcopy(model())


def shape() -> BaseShape:
    return BaseShape(
        "tiny-llama",
        {
            name: tuple(module.weight.shape)
            for name, module in model().named_modules()
            if name.rpartition(".")[2] in TARGETS
        },
    )


def peft_deltas(peft_model: Any, adapter: str = "default") -> dict[str, Tensor]:
    """ΔW by module as PEFT itself computes it."""
    return {
        name: module.get_delta_weight(adapter).detach()
        for name, module in peft_model.base_model.model.named_modules()
        if hasattr(module, "get_delta_weight") and adapter in module.lora_A
    }


def agree(adapter: Adapter, deltas: dict[str, Tensor]) -> bool:
    return adapter.modules.keys() == deltas.keys() and all(
        torch.allclose(lora.delta(), deltas[module], rtol=1e-4, atol=1e-4)
        for module, lora in adapter.modules.items()
    )


@pytest.mark.parametrize("mixed", [False, True])
def test_peft_reads_what_we_save(mixed: bool, tmp_path: Path) -> None:
    ranks = {m: 2 + i for i, m in enumerate(shape().modules)} if mixed else {}
    adapter = random_adapter(0, base=shape(), ranks=ranks)
    save_adapter(adapter, tmp_path / "a")
    assert agree(adapter, peft_deltas(peft.PeftModel.from_pretrained(fresh(), tmp_path / "a")))


def test_peft_reads_an_adapter_of_some_layers_only(tmp_path: Path) -> None:
    whole = random_adapter(0, base=shape())
    some = {m: lora for m, lora in whole.modules.items() if "layers.1" in m or "q_proj" in m}
    adapter = Adapter("some", some, whole.base)
    save_adapter(adapter, tmp_path / "a")
    assert agree(adapter, peft_deltas(peft.PeftModel.from_pretrained(fresh(), tmp_path / "a")))


@pytest.mark.parametrize(
    "options",
    [
        {"lora_alpha": 7},
        {"lora_alpha": 7, "use_rslora": True},
        {"lora_alpha": 7, "rank_pattern": {"q_proj": 3, r"layers\.1\.mlp\.down_proj": 2}},
        {"lora_alpha": 7, "alpha_pattern": {"model.layers.0.self_attn.k_proj": 5, "q_proj": 2}},
        {"use_rslora": True, "rank_pattern": {"q": 9, "q_proj": 3}, "alpha_pattern": {"k_proj": 5}},
    ],
)
def test_we_read_what_peft_saves(options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=4, target_modules=TARGETS, init_lora_weights=False, task_type="CAUSAL_LM", **options
    )
    tuned = peft.get_peft_model(fresh(), config)
    tuned.save_pretrained(tmp_path / "a")
    assert agree(load_adapter(tmp_path / "a"), peft_deltas(tuned))


def merged_by_peft(
    adapters: list[Adapter], weights: list[float], folder: Path, **options: Any
) -> dict[str, Tensor]:
    """The ΔW of PEFT's `add_weighted_adapter`, from the adapters as they are saved."""
    for adapter in adapters:
        save_adapter(adapter, folder / adapter.name)
    names = [adapter.name for adapter in adapters]
    oracle = peft.PeftModel.from_pretrained(fresh(), folder / names[0], adapter_name=names[0])
    oracle.load_adapter(folder / names[1], adapter_name=names[1])
    oracle.add_weighted_adapter(names, weights, "merged", **options)
    return peft_deltas(oracle, "merged")


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, 1.0], [0.7, -0.3]])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("linear", "cat"), ("concat", "cat"), ("peft-linear", "linear")],
)
def test_merges_agree_with_peft(
    weights: list[float], ours: str, theirs: str, tmp_path: Path
) -> None:
    adapters = [random_adapter(seed, base=shape()) for seed in range(2)]
    expected = merged_by_peft(adapters, weights, tmp_path, combination_type=theirs)
    assert agree(merge(adapters, ours, weights), expected)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.7, -0.3]])
def test_a_forced_rank_is_pefts_svd(weights: list[float], tmp_path: Path) -> None:
    adapters = [random_adapter(seed, base=shape()) for seed in range(2)]
    expected = merged_by_peft(adapters, weights, tmp_path, combination_type="svd", svd_rank=4)
    assert agree(merge(adapters, "linear", weights, rank=4), expected)


def test_a_merge_runs_in_peft_as_it_is_saved(tmp_path: Path) -> None:
    merged = merge([random_adapter(0, base=shape()), random_adapter(1, 5, base=shape())])
    save_adapter(merged, tmp_path / "a")
    ids = torch.arange(12)[None]
    direct = fresh()
    for module, lora in merged.modules.items():
        direct.get_submodule(module).weight.data += lora.delta()
    through_peft = peft.PeftModel.from_pretrained(fresh(), tmp_path / "a")
    with torch.no_grad():
        assert torch.allclose(direct(ids).logits, through_peft(ids).logits, atol=1e-4)
