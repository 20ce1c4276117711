"""A composition as one adapter in mlx-lm's format (https://github.com/ml-explore/mlx-lm).

mlx-lm computes y + scale · (x A) B, with A (in, r) and B (r, out): the factors of a LoRA turned
round. It runs one adapter, of one rank, so parts of lower rank are padded with zeros. It gives all
layers the same modules; those the file says nothing of keep its B of zeros, and change nothing.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from onepass.adapters.adapter import layer, projection
from onepass.adapters.composition import Composition
from onepass.adapters.storage import FolderFiles, check_replaceable, write_tensors
from onepass.core.errors import OnepassError
from onepass.core.files import atomic_folder, read_json, write_json
from onepass.export.rotary import older_names
from onepass.export.single import card_of, single_lora

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapters.safetensors", "onepass.json"
OWN_FILES = FolderFiles(CONFIG, (WEIGHTS, CARD))
# The rope_theta that mlx-lm (0.32.2) takes where a config.json has none on its top level.
_ASSUMED = {"llama": 10000.0, "qwen2": 1000000.0}


def export_mlx(
    composition: Composition, folder: Path | str, dtype: torch.dtype | None = None
) -> None:
    """Write a folder for `mlx_lm.generate --adapter-path`; `dtype` of the file, None: float32.

    Raises:
        OnepassError: as `export_peft`.
    """
    folder = Path(folder)
    modules = single_lora(composition)
    check_replaceable(folder, OWN_FILES)
    rank = max(lora.rank for lora in modules.values())
    tensors = {}
    for module, lora in modules.items():
        missing = rank - lora.rank
        tensors[f"{module}.lora_a"] = F.pad(lora.down, (0, 0, 0, missing)).T
        tensors[f"{module}.lora_b"] = F.pad(lora.up, (0, missing)).T
    layers = {layer(module) for module in composition.base.modules}
    config = {
        "fine_tune_type": "lora",
        "num_layers": len(layers),
        "lora_parameters": {
            "rank": rank,
            "scale": 1.0,
            "dropout": 0.0,
            "keys": sorted({_within_layer(module) for module in modules}),
        },
    }
    with atomic_folder(folder) as temporary:
        write_tensors(tensors, temporary / WEIGHTS, dtype, {"format": "mlx"})
        write_json(temporary / CONFIG, config)
        write_json(temporary / CARD, {"base": composition.base.name, **card_of(composition)})


def unread_by_mlx(model: Path) -> dict[str, Any]:
    """What mlx-lm does not see in a model folder's config.json, by the names it looks for.

    It would run the base with other rotary positions, or refuse it, until these fields are added
    to the file. Nothing for a folder without a config.json; an `OnepassError` for one that
    cannot be read.
    """
    if not (model / "config.json").is_file():
        return {}
    config = read_json(model / "config.json")
    if not isinstance(config, dict):
        raise OnepassError(f"{model / 'config.json'} is no JSON object; expected a model folder")
    seen = {"rope_theta": _ASSUMED.get(str(config.get("model_type"))), **config}
    return {name: value for name, value in older_names(config).items() if seen.get(name) != value}


def _within_layer(module: str) -> str:
    """ "self_attn.q_proj" for "model.layers.0.self_attn.q_proj"."""
    block = module.removesuffix(projection(module)).strip(".").rpartition(".")[2]
    return f"{block}.{projection(module)}"
