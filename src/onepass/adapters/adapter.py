"""A LoRA as plain data, and the PEFT folder it is read from and written to.

ΔW of a module is `up @ down`: whatever scaling the file asks for (alpha / r, or alpha / √r with
rsLoRA) is folded into `up` on loading, so that nothing downstream has to remember it.
Format: `adapter_config.json` and `adapter_model.safetensors` as written by PEFT
(https://huggingface.co/docs/peft/developer_guides/checkpoint), plus our own `card.json` and
`history.json` (`onepass.adapters.history`).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, FiniteFloat, PositiveInt
from torch import Tensor

from onepass.adapters.history import HISTORY, History, read_history, write_history
from onepass.adapters.manifests import read_manifest
from onepass.adapters.storage import (
    check_replaceable,
    read_tensors,
    stored_bytes,
    write_tensors,
)
from onepass.core.errors import OnepassError
from onepass.core.files import atomic_folder, write_json

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CARD = "card.json"


@dataclass(frozen=True, eq=False)
class Lora:
    """The low-rank change of one linear layer, `ΔW = up @ down`.

    down: (r, in) and up: (out, r), of one floating dtype, scaling included.
    """

    down: Tensor
    up: Tensor

    def __post_init__(self) -> None:
        if self.down.ndim != 2 or self.up.ndim != 2 or self.down.shape[0] != self.up.shape[1]:
            raise OnepassError(
                f"not a LoRA: down {tuple(self.down.shape)} and up {tuple(self.up.shape)} "
                "should be (r, in) and (out, r)"
            )

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), the shape of the weight it changes."""
        return self.up.shape[0], self.down.shape[1]

    @property
    def parameter_count(self) -> int:
        return self.down.numel() + self.up.numel()

    def delta(self) -> Tensor:
        """The dense change, (out, in): for tests and small layers; nothing else needs it."""
        return self.up @ self.down


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA for some modules of one base model.

    modules: by Hugging Face path, such as "model.layers.0.self_attn.q_proj".
    base: the name of the base it was trained on, or None where the file does not say.
    card: how it came to be, as JSON data.
    history: the losses of its training; None if unknown, and for a merge.
    """

    name: str
    modules: dict[str, Lora]
    base: str | None = None
    card: dict[str, Any] = field(default_factory=dict)
    history: History | None = field(default=None, repr=False)

    @property
    def parameter_count(self) -> int:
        return sum(lora.parameter_count for lora in self.modules.values())


def projection(module: str) -> str:
    """The kind of a module: "q_proj" for "model.layers.0.self_attn.q_proj"."""
    return module.rpartition(".")[2]


def layer(module: str) -> int | None:
    """The layer a module belongs to (the first number in its path); None if it is in none."""
    return next((int(part) for part in module.split(".") if part.isdigit()), None)


def same_base(one: str, other: str) -> bool:
    """Whether two names mean one base: equal, or equal after the last slash.

    A base goes by "org/name" on the hub and by "some/folder/name" once downloaded.
    """
    return _base_key(one) == _base_key(other)


def _base_key(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].lower()


class _Config(BaseModel):
    """What matters of a PEFT LoraConfig; `_refuse` looks at the rest."""

    r: PositiveInt
    lora_alpha: FiniteFloat
    use_rslora: bool = False
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, FiniteFloat] | None = None
    base_model_name_or_path: str | None = None
    model_config = {"extra": "allow"}

    def rank(self, module: str) -> int:
        return int(_by_pattern(self.rank_pattern, module, self.r))

    def scaling(self, module: str) -> float:
        alpha = _by_pattern(self.alpha_pattern, module, self.lora_alpha)
        rank = self.rank(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


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


# Fields of a LoraConfig that make the adapter more, or other, than W + scaling · B A.
_REFUSED = {
    "use_dora": "DoRA rescales the base's weights, so it is no low-rank sum",
    "lora_bias": "its LoRA layers have biases of their own",
    "modules_to_save": "it replaces whole modules of the base",
    "fan_in_fan_out": "it was made for layers that store their weights transposed",
    "use_qalora": "QALoRA pools the inputs of its layers",
    "use_bdlora": "its factors are block-diagonal",
    "trainable_token_indices": "it replaces token embeddings",
    "target_parameters": "it changes bare parameters rather than linear layers",
    "layer_replication": "it repeats layers of the base",
    "alora_invocation_tokens": "it is active for a part of the tokens only",
    "arrow_config": "it routes between adapters token by token",
    "kasa_config": "KaSA changes the base's weights",
    "monteclora_config": "MonteCLoRA samples its weights",
    "megatron_config": "it is sharded for Megatron",
}
# PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA start by changing the base, which such a file needs.
_HARMLESS_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")


def _refuse(config: Mapping[str, Any], path: Path) -> None:
    def no(name: str, why: str) -> OnepassError:
        return OnepassError(
            f"{path}: {name} = {config.get(name)!r} is not supported ({why}); "
            "train the adapter again as a plain LoRA"
        )

    if config.get("peft_type") != "LORA":
        raise no("peft_type", "only LORA adapters can be merged exactly")
    for name, why in _REFUSED.items():
        if config.get(name):
            raise no(name, why)
    if config.get("bias", "none") != "none":
        raise no("bias", "it changes biases of the base")
    if config.get("init_lora_weights") not in _HARMLESS_INITIALISATIONS:
        raise no("init_lora_weights", "this start changes the base's weights")


_KEY = re.compile(r"^base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight$")


def load_adapter(path: Path | str) -> Adapter:
    """Read a folder in PEFT's LoRA format.

    Factors keep the file's dtype where the scaling is 1, as in everything `save_adapter` writes;
    otherwise they become float32, so that folding the scaling in does not round them.

    Raises:
        OnepassError: a file is missing, corrupt or cut short; a weight is NaN or Inf; the shapes
            disagree with each other or the config; or the adapter is not a plain LoRA on linear
            layers (DoRA, biases, saved modules, embeddings, ...).
    """
    folder = Path(path)
    if not folder.is_dir():
        raise OnepassError(f"{folder} is not a folder; give an adapter's folder in PEFT format")
    config = read_manifest(_Config, folder / CONFIG)
    _refuse(config.model_dump(), folder / CONFIG)
    tensors, _ = read_tensors(folder / WEIGHTS)
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = _KEY.match(key)
        if match is None:
            raise OnepassError(
                f"{folder / WEIGHTS}: tensor {key} is no LoRA factor of a linear layer; "
                "embeddings, magnitudes and whole modules are not supported"
            )
        pairs.setdefault(match[1], {})[match[2]] = tensor
    if not pairs:
        raise OnepassError(f"{folder / WEIGHTS} holds no LoRA factors")
    modules = {
        module: _fold(module, pairs[module], config, folder / WEIGHTS)
        for module in sorted(pairs, key=_natural)
    }
    name, card = _read_card(folder)
    history = read_history(folder / HISTORY)
    return Adapter(name, modules, config.base_model_name_or_path or None, card, history)


def _fold(module: str, pair: Mapping[str, Tensor], config: _Config, path: Path) -> Lora:
    missing = {"A", "B"} - pair.keys()
    if missing:
        raise OnepassError(f"{path}: {module} lacks its factor lora_{missing.pop()}")
    down, up, rank = pair["A"], pair["B"], config.rank(module)
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != rank or up.shape[1] != rank:
        raise OnepassError(
            f"{path}: {module} has factors {tuple(down.shape)} and {tuple(up.shape)}, "
            f"but {CONFIG} says rank {rank}: expected ({rank}, in) and (out, {rank})"
        )
    scaling = config.scaling(module)
    if scaling == 1 and down.dtype == up.dtype:
        return Lora(down, up)
    wide = torch.promote_types(torch.promote_types(down.dtype, up.dtype), torch.float32)
    return Lora(down.to(wide), up.to(wide) * scaling)


def _natural(module: str) -> list[tuple[int, str]]:
    """Sort key that puts layer 2 before layer 10."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in module.split(".")]


class _Card(BaseModel):
    name: str
    card: dict[str, Any] = {}


def _read_card(folder: Path) -> tuple[str, dict[str, Any]]:
    if not (folder / CARD).is_file():
        return folder.resolve().name, {}
    card = read_manifest(_Card, folder / CARD)
    return card.name, card.card


def save_adapter(adapter: Adapter, folder: Path | str, dtype: torch.dtype | None = None) -> None:
    """Write a folder that `load_adapter` and PEFT's own `PeftModel.from_pretrained` read.

    The scaling is in the factors, so lora_alpha = r; ranks that differ go to rank_pattern.

    dtype: of the file; None keeps each tensor's own.
    Raises:
        OnepassError: the folder cannot be written or holds other files, a weight is NaN or Inf,
            or does not fit `dtype`. What stood there before is then untouched.
    """
    folder = Path(folder)
    check_folder(folder)
    with atomic_folder(folder) as temporary:
        write_adapter(adapter, temporary, dtype)


def check_folder(folder: Path) -> None:
    """Refuse a folder that saving an adapter there would cost other files."""
    check_replaceable(folder, CONFIG, (WEIGHTS, CARD, HISTORY, "README.md"))


def write_adapter(adapter: Adapter, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Fill an existing folder with an adapter's files; `save_adapter` without the safety."""
    if not adapter.modules:
        raise OnepassError(f"adapter {adapter.name!r} changes no module; there is nothing to save")
    write_tensors(_named_factors(adapter), folder / WEIGHTS, dtype, _METADATA)
    write_json(folder / CONFIG, _peft_config(adapter))
    write_json(folder / CARD, {"name": adapter.name, "card": adapter.card})
    write_history(adapter.history, folder / HISTORY)


_METADATA = {"format": "pt"}


def _named_factors(adapter: Adapter) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for module, lora in adapter.modules.items():
        named[f"base_model.model.{module}.lora_A.weight"] = lora.down
        named[f"base_model.model.{module}.lora_B.weight"] = lora.up
    return named


def _peft_config(adapter: Adapter) -> dict[str, Any]:
    ranks = {module: lora.rank for module, lora in adapter.modules.items()}
    common = Counter(ranks.values()).most_common(1)[0][0]
    patterns = {module: rank for module, rank in ranks.items() if rank != common}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base,
        "r": common,
        "lora_alpha": common,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": _targets(adapter.modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
    }


def _targets(modules: Iterable[str]) -> list[str]:
    """Short names ("q_proj") where they mean exactly these modules in every layer, else paths."""
    paths = list(modules)
    kinds = sorted({projection(module) for module in paths})
    layers = {layer(module) for module in paths}
    regular = layers == set(range(len(layers))) and len(paths) == len(kinds) * len(layers)
    return kinds if regular else paths


def adapter_bytes(source: Path | str | Adapter, dtype: torch.dtype | None = None) -> int:
    """The size in bytes of an adapter's weight file: as it is on disk, or as it would be saved."""
    if isinstance(source, Adapter):
        return stored_bytes(_named_factors(source), dtype, _METADATA)
    path = Path(source) / WEIGHTS
    if not path.is_file():
        raise OnepassError(f"{path} does not exist; give an adapter's folder in PEFT format")
    return path.stat().st_size
