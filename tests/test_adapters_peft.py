"""PEFT as oracle: we read what it saves or say why not, it reads what we save, and merges agree."""

import copy
import json
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora import config as lora
from safetensors.torch import load_file
from torch import Tensor

from adapter_kit import random_adapter
from onepass.adapters.adapter import Adapter, load_adapter, save_adapter
from onepass.adapters.merging import merge
from onepass.adapters.shape import BaseShape, for_base
from onepass.core.errors import OnepassError

TARGETS = ["q_proj", "k_proj", "down_proj"]


@cache
def model(kind: str = "llama") -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=16, n_layer=2, n_head=4, vocab_size=32, n_positions=16)
        )
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=32,
    )
    return transformers.LlamaForCausalLM(config)


def fresh(kind: str = "llama") -> Any:
    return copy.deepcopy(model(kind))


def shape() -> BaseShape:
    return BaseShape(
        "acme/llama",
        {
            name: tuple(module.weight.shape)
            for name, module in model().named_modules()
            if name.rpartition(".")[2] in TARGETS
        },
    )


def read_by_peft(folder: Path, kind: str = "llama") -> dict[str, Tensor]:
    """What PEFT adds to each weight (out, in) that it changes, merging a folder into the base."""
    merged = peft.PeftModel.from_pretrained(fresh(kind), folder).merge_and_unload().state_dict()
    deltas = {
        name.removesuffix(".weight"): merged[name] - weight
        for name, weight in model(kind).state_dict().items()
        if not torch.equal(merged[name], weight)
    }
    return {name: delta.T if kind == "gpt2" else delta for name, delta in deltas.items()}


def agree(adapter: Adapter, deltas: dict[str, Tensor], tolerance: float = 1e-6) -> bool:
    return adapter.modules.keys() == deltas.keys() and all(
        torch.allclose(found.delta(), deltas[module], rtol=0, atol=tolerance)
        for module, found in adapter.modules.items()
    )


# ------------------------------------------------------------------ every kind that PEFT writes

READ: dict[str, dict[str, Any]] = {
    "plain": {"lora_alpha": 7},
    "rsLoRA": {"lora_alpha": 7, "use_rslora": True},
    "ranks by module": {"rank_pattern": {"q_proj": 3, r"layers\.1\.mlp\.down_proj": 2}},
    "alphas by module": {"alpha_pattern": {"model.layers.0.self_attn.k_proj": 5, "q_proj": 2}},
    "both, and rsLoRA": {
        "use_rslora": True, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"k_proj": 5},
    },
    "some layers": {"layers_to_transform": [1]},
    "but some": {"exclude_modules": ["layers.1.self_attn.q_proj"]},
    "all linear layers": {"target_modules": "all-linear"},
    "EVA": {"init_lora_weights": "eva", "eva_config": lora.EvaConfig()},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "Gaussian": {"init_lora_weights": "gaussian"},
    "MiCA": {"init_lora_weights": "mica"},
    "VeLoRA": {"velora_config": lora.VeloraConfig()},
    "PiSSA, converted": {"init_lora_weights": "pissa"},
    "OLoRA, converted": {"init_lora_weights": "olora", "use_rslora": True},
    "transposed weights": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    "another task type": {"task_type": "FEATURE_EXTRACTION"},
}  # fmt: skip


def save_by_peft(folder: Path, kind: str, config: peft.PeftConfig, converted: bool) -> None:
    """Save an adapter with random factors as PEFT would after a training."""
    tuned = peft.get_peft_model(fresh(kind), config)
    if converted:
        tuned.save_pretrained(folder / "start")
    torch.manual_seed(1)
    for name, parameter in tuned.named_parameters():
        if "lora_A" in name or "lora_B" in name or "lora_E" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    start = str(folder / "start") if converted else None
    tuned.save_pretrained(folder / "a", path_initial_model_for_weight_conversion=start)


@pytest.mark.parametrize("name", READ)
def test_what_is_a_plain_lora_is_read_exactly_and_saved_for_any_runtime(
    name: str, tmp_path: Path
) -> None:
    options = {"r": 4, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **READ[name]}
    kind = "gpt2" if "fan_in_fan_out" in options else "llama"
    save_by_peft(tmp_path, kind, peft.LoraConfig(**options), "converted" in name)
    loaded = load_adapter(tmp_path / "a")
    assert loaded.task_type == options["task_type"]
    expected = read_by_peft(tmp_path / "a", kind)
    assert agree(loaded, expected)
    save_adapter(loaded, tmp_path / "b")
    again = read_by_peft(tmp_path / "b", kind)
    assert agree(load_adapter(tmp_path / "b"), expected)
    assert agree(loaded, again)
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert config["task_type"] == options["task_type"]
    without_patterns = read_plainly(tmp_path / "b")
    assert without_patterns.keys() == expected.keys()
    for module, delta in without_patterns.items():
        assert torch.allclose(delta, expected[module], rtol=0, atol=1e-6)


def read_plainly(folder: Path) -> dict[str, Tensor]:
    """ΔW as a runtime computes it that knows r, lora_alpha and the names of tensors alone."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    ends = ".lora_A.weight", ".lora_B.weight"
    modules = {key.removesuffix(ends[0]) for key in tensors if key.endswith(ends[0])}
    assert {len(tensors[module + ends[0]]) for module in modules} == {config["r"]}
    return {
        module.removeprefix("base_model.model."): config["lora_alpha"] / config["r"]
        * tensors[module + ends[1]] @ tensors[module + ends[0]]
        for module in modules
    }  # fmt: skip


@pytest.mark.parametrize("ranks", [None, (1, 3), (0, 3)])
def test_adalora_is_read_with_its_singular_values(
    ranks: tuple[int, int] | None, tmp_path: Path
) -> None:
    """Ranks: of the modules of layers 0 and 1 that its training would have left of 3."""
    config = peft.AdaLoraConfig(
        init_r=3, lora_alpha=5, total_step=10, target_modules=TARGETS, task_type="CAUSAL_LM"
    )
    if ranks:
        config.rank_pattern = {
            f"{module}.lora_E": [i < ranks[".1." in module] for i in range(3)]
            for module in shape().modules
        }
    save_by_peft(tmp_path, "llama", config, False)
    loaded = load_adapter(tmp_path / "a")
    assert loaded.ranks == ((3,) if not ranks or not ranks[0] else ranks)
    assert agree(loaded, read_by_peft(tmp_path / "a"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "rescales the base's weights"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
    "OLoRA": ({"init_lora_weights": "olora"}, "changes the base's weights"),
    "CorDA": (
        {"init_lora_weights": "corda", "corda_config": lora.CordaConfig()}, "changes the base's",
    ),
    "LoftQ": (
        {"init_lora_weights": "loftq", "loftq_config": lora.LoftQConfig()}, "changes the base's",
    ),
    "LoRA-GA": (
        {"init_lora_weights": "lora_ga", "lora_ga_config": lora.LoraGAConfig()},
        "changes the base's",
    ),
    "QALoRA": ({"use_qalora": True}, "pools the inputs"),
    "biases": ({"bias": "lora_only"}, "biases of the base"),
    "LoRA biases": ({"lora_bias": True}, "biases of their own"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "replaces whole modules"),
    "tokens": ({"trainable_token_indices": [1]}, "token embeddings"),
    "replication": ({"layer_replication": [(0, 2), (0, 2)]}, "repeats layers"),
    "parameters": ({"target_parameters": ["q_proj.weight"]}, "bare parameters"),
    "BD-LoRA": ({"use_bdlora": lora.BdLoraConfig(["q_proj"])}, "block-diagonal"),
    "Arrow": ({"arrow_config": lora.ArrowConfig()}, "routes between adapters"),
    "KaSA": ({"kasa_config": lora.KasaConfig()}, "KaSA changes"),
    "MonteCLoRA": ({"monteclora_config": lora.MontecloraConfig()}, "samples its weights"),
}  # fmt: skip
PROMPTS = (
    "CARTRIDGE CPT ADAPTION_PROMPT PROMPT_TUNING MULTITASK_PROMPT_TUNING P_TUNING PREFIX_TUNING"
)


def refused(folder: Path, reason: str) -> None:
    with pytest.raises(OnepassError) as caught:
        load_adapter(folder)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "plain LoRA" in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_other_variants_of_lora_are_refused_in_a_line_that_says_why(
    name: str, tmp_path: Path
) -> None:
    options, reason = REFUSED[name]
    peft.LoraConfig(target_modules=TARGETS, **options).save_pretrained(tmp_path)
    refused(tmp_path, reason)


@pytest.mark.parametrize(
    "kind", [str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING if "LORA" != kind != "ADALORA"]
)
def test_all_other_kinds_of_peft_are_refused_in_a_line_that_says_why(
    kind: str, tmp_path: Path
) -> None:
    made = PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]
    known = {each.name for each in fields(made)}
    wanted = {"task_type": "CAUSAL_LM", "target_modules": TARGETS, "num_virtual_tokens": 2}
    made(**{name: value for name, value in wanted.items() if name in known}).save_pretrained(
        tmp_path
    )
    refused(
        tmp_path, "learns a prompt" if kind in PROMPTS.split() else f"'{kind}' is not supported"
    )


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_weights_of_the_base_in_the_file_are_refused(target: str, tmp_path: Path) -> None:
    config = peft.LoraConfig(target_modules=["q_proj", target], task_type="CAUSAL_LM")
    peft.get_peft_model(fresh(), config).save_pretrained(tmp_path)
    with pytest.raises(OnepassError, match="save_embedding_layers=False"):
        load_adapter(tmp_path)


# ------------------------------------------------------------------ what we save


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("which", ["all", "some layers", "ranks", "multimodal"])
def test_peft_runs_what_we_save(which: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Merged or attached it gives the logits of the base with ΔW added."""
    names = list(shape().modules)
    ranks = {module: 2 + i for i, module in enumerate(names)} if which == "ranks" else {}
    adapter = random_adapter(0, base=shape(), ranks=ranks)
    modules = dict(adapter.modules)
    if which == "some layers":
        modules = {m: x for m, x in modules.items() if "layers.1" in m or "q_proj" in m}
    if which == "multimodal":
        modules = {m.replace("model.", "model.language_model."): x for m, x in modules.items()}
    adapter = for_base(Adapter("some", modules, adapter.base), shape())
    save_adapter(adapter, tmp_path / "a", dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    assert agree(adapter, read_by_peft(tmp_path / "a"), tolerance)
    direct, ids = fresh(), torch.arange(12)[None]
    for module, each in adapter.modules.items():
        direct.get_submodule(module).weight.data += each.delta()
    through_peft = peft.PeftModel.from_pretrained(fresh(), tmp_path / "a")
    with torch.no_grad():
        assert torch.allclose(direct(ids).logits, through_peft(ids).logits, atol=tolerance)


# ------------------------------------------------------------------ merges


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1.0, 1.0], [0.7, -0.3]])
@pytest.mark.parametrize(
    ("ours", "theirs", "rank"),
    [
        ("linear", "cat", None),
        ("concat", "cat", None),
        ("peft-linear", "linear", None),
        ("linear", "svd", 4),
    ],
)
def test_merges_agree_with_peft(
    weights: list[float], ours: str, theirs: str, rank: int | None, tmp_path: Path
) -> None:
    adapters = [random_adapter(seed, base=shape()) for seed in range(2)]
    for adapter in adapters:
        save_adapter(adapter, tmp_path / adapter.name)
    names = [adapter.name for adapter in adapters]
    oracle = peft.PeftModel.from_pretrained(fresh(), tmp_path / names[0], adapter_name=names[0])
    oracle.load_adapter(tmp_path / names[1], adapter_name=names[1])
    oracle.add_weighted_adapter(names, weights, "merged", combination_type=theirs, svd_rank=rank)
    expected = {
        name: module.get_delta_weight("merged").detach()
        for name, module in oracle.base_model.model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert agree(merge(adapters, ours, weights, rank=rank), expected, 1e-4)
