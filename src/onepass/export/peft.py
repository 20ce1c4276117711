"""A composition as one LoRA in PEFT's format, which any LoRA runtime can load."""

from pathlib import Path
from typing import Any

import torch

from onepass.adapters.adapter import ADAPTER_FILES, Adapter, save_adapter
from onepass.adapters.composition import Composition
from onepass.export.single import card_of, invocation_of, single_lora

OWN_FILES = ADAPTER_FILES


def export_peft(
    composition: Composition,
    folder: Path | str,
    dtype: torch.dtype | None = None,
    tokenizer: Any = None,
) -> None:
    """Write the exact ΔW of the composition's pass; its rank is the sum of its parts' ranks.

    dtype: of the file; None is float32 or wider. tokenizer: of the base, for an activated
    composition, which becomes an activated adapter (aLoRA) that acts from the same tokens on.
    Raises:
        OnepassError: the composition has several passes, output biases or no effect at all, or
            the folder cannot be written.
    """
    modules = single_lora(composition)
    name = f"{composition.method}({composition.task.name})"
    adapter = Adapter(
        name,
        modules,
        composition.base.name,
        card_of(composition),
        invocation=invocation_of(composition, tokenizer),
    )
    save_adapter(adapter, folder, dtype)
