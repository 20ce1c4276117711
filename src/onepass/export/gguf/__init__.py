"""Compositions for llama.cpp: a base, adapters that are shared, and a manifest of the scales."""

from onepass.export.gguf.device_set import export_gguf

__all__ = ["export_gguf"]
