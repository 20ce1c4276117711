"""Fields of a model's config.json under the names they had before transformers 5.

transformers 5 writes and wants `rope_parameters`, `layer_types` and so on, and reads the older
names beside them. Of the other programs that read model folders, some know the older names alone:
mlx-lm up to 0.32.2 (https://github.com/ml-explore/mlx-lm/pull/953).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.files import read_json

_APART = ("rope_theta", "partial_rotary_factor")


def read_config(model: Path) -> dict[str, Any]:
    """The config.json in a model folder, empty if there is none; `OnepassError` if damaged."""
    path = model / "config.json"
    if not path.is_file():
        return {}
    config = read_json(path)
    if not isinstance(config, dict):
        raise OnepassError(f"{path} is no JSON object; expected a model folder")
    return config


def older_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The older fields that say again what the newer ones of a config.json say."""
    rope = config.get("rope_parameters")
    fields: dict[str, Any] = {}
    if config.get("model_type") == "gemma3_text" and isinstance(rope, dict):
        fields |= _of_two_kinds(rope, config.get("layer_types"))
    elif isinstance(rope, dict) and "rope_theta" in rope:
        fields |= {name: rope[name] for name in _APART if name in rope} | _scaling(rope)
    if config.get("model_type") == "lfm2":
        fields |= dict.fromkeys(("block_dim", "conv_dim"), config["hidden_size"])
    return fields


def _of_two_kinds(rope: Mapping[str, Any], layers: Any) -> dict[str, Any]:
    """Gemma 3's: its sliding layers have rotary positions of their own."""
    fields: dict[str, Any] = {}
    for kind, name in (
        ("full_attention", "rope_theta"), ("sliding_attention", "rope_local_base_freq"),
    ):  # fmt: skip
        if isinstance(rope.get(kind), dict) and "rope_theta" in rope[kind]:
            fields[name] = rope[kind]["rope_theta"]
    if "rope_theta" in fields:
        fields |= _scaling(rope["full_attention"])
    if isinstance(layers, list) and "full_attention" in layers:
        fields["sliding_window_pattern"] = layers.index("full_attention") + 1
    return fields


def _scaling(rope: Mapping[str, Any]) -> dict[str, Any]:
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return {}
    # mlx-lm's phi3 knows an even older name.
    return {"rope_scaling": {**rope, "type": kind} if kind == "longrope" else dict(rope)}
