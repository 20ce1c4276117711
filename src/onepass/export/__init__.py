"""Compositions for other runtimes: as one LoRA in PEFT's format, or as a whole model."""

from onepass.export.merged import export_merged
from onepass.export.peft import export_peft

__all__ = ["export_merged", "export_peft"]
