"""A composition as one adapter in mlx-lm's format (https://github.com/ml-explore/mlx-lm).

mlx-lm computes y + scale · (x A) B, with A (in, r) and B (r, out): the factors of a LoRA turned
round. It runs one adapter, of one rank, so parts of lower rank are padded with zeros.
"""

from pathlib import Path

import torch
import torch.nn.functional as F

from onepass.adapters.adapter import layer, projection
from onepass.adapters.composition import Composition
from onepass.adapters.storage import check_replaceable, write_tensors
from onepass.core.files import atomic_folder, write_json
from onepass.export.single import card_of, single_lora

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapters.safetensors", "onepass.json"


def export_mlx(
    composition: Composition, folder: Path | str, dtype: torch.dtype | None = None
) -> None:
    """Write a folder for `mlx_lm.generate --adapter-path`; `dtype` of the file, None: float32.

    Raises:
        OnepassError: as `export_peft`.
    """
    folder = Path(folder)
    modules = single_lora(composition)
    check_replaceable(folder, CONFIG, (WEIGHTS, CARD))
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


def _within_layer(module: str) -> str:
    """ "self_attn.q_proj" for "model.layers.0.self_attn.q_proj"."""
    block = module.removesuffix(projection(module)).strip(".").rpartition(".")[2]
    return f"{block}.{projection(module)}"
