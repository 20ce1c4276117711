"""Compositions for other runtimes: one LoRA, a whole model, or a set for llama.cpp on a device.

Imported one by one when asked for: reading a device set's manifest needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onepass.export.gguf.device_set import export_gguf
    from onepass.export.merged import export_merged
    from onepass.export.mlx import export_mlx
    from onepass.export.peft import export_peft
    from onepass.export.vllm import export_vllm

__all__ = ["export_gguf", "export_merged", "export_mlx", "export_peft", "export_vllm"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        place = "gguf.device_set" if name == "export_gguf" else name.removeprefix("export_")
        return getattr(importlib.import_module(f"onepass.export.{place}"), name)
    raise AttributeError(f"module 'onepass.export' has no attribute {name!r}")
