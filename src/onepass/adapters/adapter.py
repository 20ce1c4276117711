"""Adapters on disk: folders in PEFT's format, read and written.

The format is `adapter_config.json` and `adapter_model.safetensors` as PEFT writes them
(https://huggingface.co/docs/peft/developer_guides/checkpoint), plus our own `card.json` and
`history.json` (`onepass.adapters.history`).
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from onepass.adapters.history import HISTORY, read_history, write_history
from onepass.adapters.lora import Adapter, Lora, layer, natural_order, projection
from onepass.adapters.lowrank import balanced, padded, squared_errors, unpadded
from onepass.adapters.manifests import read_manifest
from onepass.adapters.peft_config import CONFIG, factors_by_module, read_config
from onepass.adapters.storage import (
    FolderFiles,
    check_replaceable,
    read_tensors,
    stored_bytes,
    write_tensors,
)
from onepass.core.errors import OnepassError
from onepass.core.files import atomic_folder, write_json
from onepass.core.hub import cached_name, is_hub_name, snapshot

__all__ = [
    "ADAPTER_FILES", "CARD", "CONFIG", "WEIGHTS", "Adapter", "Lora", "adapter_bytes", "layer",
    "load_adapter", "projection", "save_adapter", "write_adapter",
]  # fmt: skip

WEIGHTS = "adapter_model.safetensors"
CARD = "card.json"
ADAPTER_FILES = FolderFiles(CONFIG, (WEIGHTS, CARD, HISTORY, "README.md"))
_METADATA = {"format": "pt"}


def load_adapter(path: Path | str) -> Adapter:
    """Read a folder in PEFT's format, or an adapter of the hub by its name OWNER/NAME.

    Factors keep the file's dtype where the scaling is 1, as in everything `save_adapter` writes;
    otherwise they become float32, so that folding the scaling in does not round them.

    Raises:
        OnepassError: the adapter is not on this machine and cannot be downloaded; a file is
            missing, corrupt or cut short; a weight is NaN or Inf; the shapes disagree with each
            other or the config; or it is no low-rank sum on linear layers (see `peft_config`).
    """
    folder = _folder(path)
    config = read_config(folder / CONFIG)
    tensors, _ = read_tensors(folder / WEIGHTS)
    factors = factors_by_module(tensors, config, folder / WEIGHTS)
    modules = {}
    for module in sorted(factors, key=natural_order):
        lora = config.lora(module, factors[module], folder / WEIGHTS)
        if lora.rank:  # AdaLoRA may have left a module none at all
            modules[module] = unpadded(lora)
    name, card = _read_card(folder)
    base, history = config.base_model_name_or_path or None, read_history(folder / HISTORY)
    invocation = tuple(config.alora_invocation_tokens or ())
    return Adapter(name, modules, base, card, config.task_type, history, invocation)


def _folder(path: Path | str) -> Path:
    """The folder of an adapter, downloaded if `path` is a hub name."""
    folder, name = Path(path).expanduser(), str(path)
    if folder.is_dir():
        return folder
    if not (is_hub_name(name) and "/" in name) or folder.exists():
        raise OnepassError(
            f"{path} is not a folder; give an adapter's folder in PEFT format, or its hub name "
            "OWNER/NAME"
        )
    folder = snapshot(name, [CONFIG, WEIGHTS, CARD, HISTORY, "README.md"])
    if not (folder / CONFIG).is_file():
        raise OnepassError(f"{name} on the hub has no {CONFIG}; it is no adapter in PEFT format")
    return folder


class _Card(BaseModel):
    name: str
    card: dict[str, Any] = {}


def _read_card(folder: Path) -> tuple[str, dict[str, Any]]:
    if not (folder / CARD).is_file():
        place = folder.resolve()
        return (cached_name(folder) or cached_name(place) or place.name).rpartition("/")[2], {}
    card = read_manifest(_Card, folder / CARD)
    return card.name, card.card


def save_adapter(adapter: Adapter, folder: Path | str, dtype: torch.dtype | None = None) -> None:
    """Write a folder that `load_adapter` and PEFT's own `PeftModel.from_pretrained` read.

    It means the same in runtimes that ignore rank_pattern and alpha_pattern: the scaling is in the
    factors (lora_alpha = r), and all modules have the highest rank, filled up with zeros. In 16
    bits, the two factors of each component get equal norms first, so that neither leaves the range
    of the format; the card states the error that is left, "rounding_error" (‖ΔW' - ΔW‖ / ‖ΔW‖,
    Frobenius, over all modules).

    dtype: of the file; None keeps each tensor's own.
    Raises:
        OnepassError: the folder cannot be written or holds other files, a weight is NaN or Inf,
            or does not fit `dtype`. What stood there before is then untouched.
    """
    folder = Path(folder)
    check_replaceable(folder, ADAPTER_FILES)
    with atomic_folder(folder) as temporary:
        write_adapter(adapter, temporary, dtype)


def write_adapter(adapter: Adapter, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Fill an existing folder with an adapter's files; `save_adapter` without the safety."""
    if not adapter.modules:
        raise OnepassError(f"adapter {adapter.name!r} changes no module; there is nothing to save")
    modules = _for_file(adapter, dtype)
    write_tensors(_named_factors(modules), folder / WEIGHTS, dtype, _METADATA)
    write_json(folder / CONFIG, _peft_config(adapter))
    card = {**adapter.card, **_rounding(modules, dtype)}
    write_json(folder / CARD, {"name": adapter.name, "card": card})
    write_history(adapter.history, folder / HISTORY)


def _for_file(adapter: Adapter, dtype: torch.dtype | None) -> dict[str, Lora]:
    """The modules with factors of one rank, balanced where they will be rounded to `dtype`."""
    rank = adapter.ranks[-1]
    return {
        module: balanced(padded(lora, rank)) if _rounds(lora, dtype) else padded(lora, rank)
        for module, lora in adapter.modules.items()
    }


def _rounds(lora: Lora, dtype: torch.dtype | None) -> bool:
    return dtype is not None and dtype.itemsize == 2 and {lora.down.dtype, lora.up.dtype} != {dtype}


def _rounding(modules: dict[str, Lora], dtype: torch.dtype | None) -> dict[str, float]:
    pairs = [
        squared_errors(Lora(lora.down.to(dtype), lora.up.to(dtype)), lora)
        for lora in modules.values()
        if _rounds(lora, dtype)
    ]
    missed, size = (sum(values) for values in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    return {"rounding_error": float(f"{math.sqrt(missed / size):.2g}")} if size else {}


def _named_factors(modules: dict[str, Lora]) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for module, lora in modules.items():
        named[f"base_model.model.{module}.lora_A.weight"] = lora.down
        named[f"base_model.model.{module}.lora_B.weight"] = lora.up
    return named


def _peft_config(adapter: Adapter) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": adapter.task_type,
        "base_model_name_or_path": adapter.base,
        "r": adapter.ranks[-1],
        "lora_alpha": adapter.ranks[-1],
        "target_modules": _targets(adapter.modules),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
        **({"alora_invocation_tokens": list(adapter.invocation)} if adapter.invocation else {}),
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
        return stored_bytes(_named_factors(_for_file(source, dtype)), dtype, _METADATA)
    path = _folder(source) / WEIGHTS
    if not path.is_file():
        raise OnepassError(f"{path} does not exist; give an adapter's folder in PEFT format")
    return path.stat().st_size
