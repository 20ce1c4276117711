"""What a PEFT `adapter_config.json` says of its tensors, and which kinds are no plain LoRA.

Every kind that PEFT writes is read exactly or refused here in one line. Read are AdaLoRA, activated
LoRA and LoRA in its plain forms: rsLoRA, patterns of ranks and alphas, layers that store their
weight transposed, starts that leave the base alone or were converted when the adapter was saved.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, FiniteFloat, NonNegativeInt, PositiveInt
from torch import Tensor

from onepass.adapters.lora import Lora
from onepass.adapters.manifests import read_manifest
from onepass.adapters.naming import unwrapped
from onepass.core.errors import OnepassError

CONFIG = "adapter_config.json"


class PeftConfig(BaseModel):
    """The fields of every kind. `FACTORS` match its tensors: module, factor, adapter's name."""

    peft_type: str | None = None
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    alora_invocation_tokens: list[NonNegativeInt] | None = None
    model_config = {"extra": "allow"}

    def lora(self, module: str, factors: Mapping[str, Tensor], path: Path) -> Lora:
        """A module's change with its scaling folded in; float32 or wider where that rounds."""
        raise NotImplementedError


class LoraConfig(PeftConfig):
    """ΔW = alpha / r · B A, or alpha / √r · B A with rsLoRA."""

    r: PositiveInt
    lora_alpha: FiniteFloat
    use_rslora: bool = False
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None

    def lora(self, module: str, factors: Mapping[str, Tensor], path: Path) -> Lora:
        down, up = _pair(module, factors, path)
        rank = int(_by_pattern(self.rank_pattern, module, self.r))
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != rank or up.shape[1] != rank:
            raise OnepassError(
                f"{path}: {module} has factors {tuple(down.shape)} and {tuple(up.shape)}, "
                f"but {CONFIG} says rank {rank}: expected ({rank}, in) and (out, {rank})"
            )
        alpha = _by_pattern(self.alpha_pattern, module, self.lora_alpha)
        return _scaled(down, up, alpha / (math.sqrt(rank) if self.use_rslora else rank))


class AdaLoraConfig(PeftConfig):
    """ΔW = alpha / (init_r + 1e-5) · B diag(E) A, of the ranks that the training left."""

    init_r: PositiveInt
    lora_alpha: FiniteFloat

    def lora(self, module: str, factors: Mapping[str, Tensor], path: Path) -> Lora:
        down, up = _pair(module, factors, path)
        values = factors.get("E")
        if values is None or values.shape != (len(down), 1):
            raise OnepassError(f"{path}: {module} should have a lora_E of ({len(down)}, 1)")
        alpha = self.lora_alpha if self.lora_alpha > 0 else self.init_r
        return _scaled(down * values, up, alpha / (self.init_r + 1e-5))


_FACTORS = {
    "LORA": re.compile(r"(.+)\.lora_([AB])(?:\.([^.]+))?\.weight"),
    "ADALORA": re.compile(r"(.+)\.lora_([ABE])(?:\.([^.]+))?"),
}

_PROMPTS = (
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"),
    *("ADAPTION_PROMPT", "CPT", "CARTRIDGE"),
)
# Fields of a LoraConfig that make the adapter more, or other, than W + scaling · B A.
_REFUSED = {
    "use_dora": "DoRA rescales the base's weights, so it is no low-rank sum",
    "lora_bias": "its LoRA layers have biases of their own",
    "modules_to_save": "it replaces whole modules of the base",
    "use_qalora": "QALoRA pools the inputs of its layers",
    "use_bdlora": "its factors are block-diagonal",
    "trainable_token_indices": "it replaces token embeddings",
    "target_parameters": "it changes bare parameters rather than linear layers",
    "layer_replication": "it repeats layers of the base",
    "arrow_config": "it routes between adapters token by token",
    "kasa_config": "KaSA changes the base's weights",
    "monteclora_config": "MonteCLoRA samples its weights",
    "megatron_config": "it is sharded for Megatron",
}
_HARMLESS = (
    *("use_rslora", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("velora_config", "runtime_config"),
)
# PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA start by changing the base, which such a file needs.
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


def read_config(path: Path) -> LoraConfig | AdaLoraConfig:
    """The configuration of an adapter that can be read exactly.

    Raises:
        OnepassError: the file is missing or damaged, or the adapter is of another kind.
    """
    config = read_manifest(PeftConfig, path)
    fields: dict[str, Any] = config.model_dump()

    def refuse(name: str, why: str, remedy: str = "") -> None:
        remedy = remedy or "train it again as a plain LoRA, or merge it into its base with PEFT"
        raise OnepassError(f"{path}: {name} = {fields[name]!r} is not supported ({why}); {remedy}")

    if config.peft_type in _PROMPTS:
        refuse("peft_type", "it learns a prompt, not weights", "train a plain LoRA")
    if config.peft_type not in _FACTORS:
        refuse("peft_type", "only LORA and ADALORA are low-rank sums for any base")
    for name, value in fields.items():
        if name in _REFUSED and value:
            refuse(name, _REFUSED[name])
        if value and name not in _HARMLESS and re.fullmatch("use_.*|.*_config", name):
            refuse(name, "a variant of LoRA that is not known here")
    if fields.get("bias", "none") != "none":
        refuse("bias", "it changes biases of the base")
    if fields.get("init_lora_weights") not in _HARMLESS_STARTS:
        refuse(
            "init_lora_weights",
            "this start changes the base's weights",
            "save it with PEFT's path_initial_model_for_weight_conversion, or train a plain LoRA",
        )
    if config.peft_type == "LORA":
        return read_manifest(LoraConfig, path)
    return read_manifest(AdaLoraConfig, path)


def factors_by_module(
    tensors: Mapping[str, Tensor], config: PeftConfig, path: Path
) -> dict[str, dict[str, Tensor]]:
    """The tensors by module (its path in the base) and factor ("A", "B", and "E" of AdaLoRA).

    Raises:
        OnepassError: a tensor is no factor of a linear layer, or two are the same factor.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if ".lora_velora_" in key:
            continue  # VeLoRA's, which saves memory in training and changes no output
        match = _FACTORS[config.peft_type or "LORA"].fullmatch(key)
        if match is None:
            raise OnepassError(
                f"{path}: tensor {key} is no LoRA factor of a linear layer; embeddings, magnitudes "
                "and modules of the base are not read (PEFT: save_embedding_layers=False)"
            )
        factors = found.setdefault(unwrapped(match[1]), {})
        if match[2] in factors:
            raise OnepassError(
                f"{path}: {key} is a second lora_{match[2]} of {unwrapped(match[1])}; the file "
                "holds more than one adapter, save one alone (PEFT: selected_adapters=[NAME])"
            )
        factors[match[2]] = tensor
    if not found:
        raise OnepassError(f"{path} holds no LoRA factors")
    return found


def _pair(module: str, factors: Mapping[str, Tensor], path: Path) -> tuple[Tensor, Tensor]:
    for name in "AB":
        if name not in factors:
            raise OnepassError(f"{path}: {module} lacks its factor lora_{name}")
    return factors["A"], factors["B"]


def _scaled(down: Tensor, up: Tensor, scaling: float) -> Lora:
    if scaling == 1 and down.dtype == up.dtype:
        return Lora(down, up)
    wide = torch.promote_types(torch.promote_types(down.dtype, up.dtype), torch.float32)
    return Lora(down.to(wide), up.to(wide) * scaling)


def _by_pattern(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    # PEFT's rule (peft.utils.other.get_pattern_key): the first key that matches a dotted suffix.
    for key, value in (patterns or {}).items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error as error:
            raise OnepassError(
                f"{CONFIG}: rank or alpha pattern {key!r} is no regular expression ({error})"
            ) from error
    return default
