"""A composition as one LoRA in PEFT's format, which any LoRA runtime can load."""

from pathlib import Path

import torch

from onepass.adapters.adapter import ADAPTER_FILES, Adapter, save_adapter
from onepass.adapters.composition import Composition
from onepass.export.single import card_of, single_lora

OWN_FILES = ADAPTER_FILES


def export_peft(
    composition: Composition, folder: Path | str, dtype: torch.dtype | None = None
) -> None:
    """Write the exact ΔW of the composition's pass; its rank is the sum of its parts' ranks.

    dtype: of the file; None is float32 or wider.
    Raises:
        OnepassError: the composition has several passes, output biases or no effect at all, or
            the folder cannot be written.
    """
    modules = single_lora(composition)
    name = f"{composition.method}({composition.task.name})"
    save_adapter(Adapter(name, modules, composition.base.name, card_of(composition)), folder, dtype)
