"""The rotary fields of a model's config.json under the names they had before transformers 5.

transformers 5 writes and wants `rope_parameters`, and reads the older names beside it. Of the other
programs that read model folders, some know the older names alone: mlx-lm up to 0.32.2 for llama,
qwen2 and stablelm (https://github.com/ml-explore/mlx-lm/pull/953).
"""

from collections.abc import Mapping
from typing import Any

_APART = ("rope_theta", "partial_rotary_factor")


def older_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say again what `rope_parameters` says.

    Nothing for a model whose kinds of layers each have parameters of their own.
    """
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return {}
    fields = {name: rope[name] for name in _APART if name in rope}
    if rope.get("rope_type", "default") != "default":
        fields["rope_scaling"] = dict(rope)
    return fields
