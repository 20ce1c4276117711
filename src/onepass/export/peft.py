"""A composition as one LoRA in PEFT's format, which any LoRA runtime can load."""

from pathlib import Path

import torch

from onepass.adapters.adapter import Adapter, save_adapter
from onepass.adapters.composition import Composition, pass_bias, pass_delta
from onepass.core.errors import OnepassError
from onepass.export.single import card_of, single_pass


def export_peft(
    composition: Composition, folder: Path | str, dtype: torch.dtype | None = None
) -> None:
    """Write the exact ΔW of the composition's pass; its rank is the sum of its parts' ranks.

    dtype: of the file; None is float32 or wider.
    Raises:
        OnepassError: the composition has several passes, output biases or no effect at all, or
            the folder cannot be written.
    """
    pass_ = single_pass(composition)
    if pass_bias(pass_, composition.base):
        raise OnepassError(
            f"the composition for {composition.task} has output biases, which a LoRA cannot hold; "
            "calibrate with --form column, or export it as merged"
        )
    modules = pass_delta(pass_, composition.base)
    if not modules:
        raise OnepassError(f"the composition for {composition.task} is the base alone; use that")
    name = f"{composition.method}({composition.task})"
    save_adapter(Adapter(name, modules, composition.base.name, card_of(composition)), folder, dtype)
