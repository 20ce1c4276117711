"""A composition as one adapter in mlx-lm's format (https://github.com/ml-explore/mlx-lm).

mlx-lm computes y + scale · (x A) B, with A (in, r) and B (r, out): the factors of a LoRA turned
round. It runs one adapter, of one rank, so parts of lower rank are padded with zeros. It gives all
layers the same modules; those the file says nothing of keep its B of zeros, and change nothing.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from onepass.adapters.composition import Composition
from onepass.adapters.lora import layer, within_layer
from onepass.adapters.storage import FolderFiles, check_replaceable, write_tensors
from onepass.core.files import atomic_folder, write_json
from onepass.export.config_fields import older_names, read_config
from onepass.export.single import card_of, refuse_activated, single_lora

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapters.safetensors", "onepass.json"
OWN_FILES = FolderFiles(CONFIG, (WEIGHTS, CARD))
# What mlx-lm (0.32.2) takes for fields that a config.json does not have on its top level.
_ASSUMED: dict[str, dict[str, Any]] = {
    **{kind: {"rope_theta": 10000.0} for kind in ("llama", "mistral", "smollm3", "phi3")},
    "qwen2": {"rope_theta": 1000000.0},
    "gemma3_text": {
        "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "sliding_window_pattern": 6,
    },
}  # fmt: skip
_READ = {"qwen3", "lfm2"}  # where it knows rope_parameters
_UNUSED = {"conv_dim"}  # which vLLM alone wants
_UNWINDOWED = {"mistral", "phi3"}  # where it attends to all of a text, whatever the window


def export_mlx(
    composition: Composition, folder: Path | str, dtype: torch.dtype | None = None
) -> None:
    """Write a folder for `mlx_lm.generate --adapter-path`; `dtype` of the file, None: float32.

    Raises:
        OnepassError: as `export_peft`, or the composition is activated.
    """
    folder = Path(folder)
    refuse_activated(composition, "mlx-lm", "export it as peft or gguf")
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
            "keys": sorted({within_layer(module) for module in modules}),
        },
    }
    with atomic_folder(folder) as temporary:
        write_tensors(tensors, temporary / WEIGHTS, dtype, {"format": "mlx"})
        write_json(temporary / CONFIG, config)
        write_json(temporary / CARD, {"base": composition.base.name, **card_of(composition)})


def unread_by_mlx(model: Path) -> dict[str, Any]:
    """What mlx-lm does not see in a model folder's config.json, by the names it looks for.

    It would run another model than the base, or refuse it, until these fields are added to the
    file. Nothing for a folder without a config.json; an `OnepassError` for one that cannot be read.
    """
    config = read_config(model)
    kind = str(config.get("model_type"))
    seen = {**_ASSUMED.get(kind, {}), **config}
    if kind in _READ:
        seen |= config.get("rope_parameters") or {}
    return {
        name: value
        for name, value in older_names(config).items()
        if seen.get(name) != value and name not in _UNUSED
    }


def window_of(model: Path) -> int | None:
    """The sliding window of a base that mlx-lm ignores: longer texts come out differently."""
    config = read_config(model)
    window = config.get("sliding_window")
    ignored = window and config.get("model_type") in _UNWINDOWED
    return window if ignored and window < config.get("max_position_embeddings", 0) else None
