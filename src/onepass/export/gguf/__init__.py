"""Compositions for llama.cpp: a base, adapters that are shared, and a manifest of the scales.

What writes them is imported when it is asked for: reading them needs no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onepass.export.gguf.device_set import export_gguf

__all__ = ["export_gguf"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from onepass.export.gguf import device_set

        return getattr(device_set, name)
    raise AttributeError(f"module 'onepass.export.gguf' has no attribute {name!r}")
