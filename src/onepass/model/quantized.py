"""A base in fewer bits: on a GPU by bitsandbytes, or rounded to what a GGUF file can store.

Nothing can be added to weights of the first kind, so compositions are computed beside them
(`attach.attached`). Those of the second kind are ordinary numbers: what is trained or measured on
them is trained or measured on the base that a device gets.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from onepass.core.errors import OnepassError
from onepass.model.blocks import BLOCK, stored_values

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BITS = ("8bit", "4bit")
ROUNDINGS = ("q8_0", "q4_0")
QUANTIZATIONS = ("none", *BITS, *ROUNDINGS)

_ROWS = 8192


def round_weights(model: "PreTrainedModel", kind: str) -> None:
    """Replace each weight by the value that a GGUF file of this `kind` holds for it.

    As in `onepass export --format gguf`, these are the matrices whose rows divide into blocks, the
    embedding and the output included.
    """
    done: set[int] = set()
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Embedding):
            continue
        weight = module.weight.detach()
        if weight.data_ptr() in done or weight.shape[-1] % BLOCK:
            continue
        done.add(weight.data_ptr())  # tied embeddings are one
        for rows in torch.split(weight, _ROWS):  # a large vocabulary not all at once
            numbers = stored_values(rows.float().cpu().numpy(), kind)
            rows.copy_(torch.from_numpy(numbers))


def quantization_config(kind: str, device: torch.device, dtype: torch.dtype) -> Any:
    """8 bits: LLM.int8() (arXiv 2208.07339). 4 bits: NF4 with double quantisation (2305.14314).

    `dtype` is that of the products. Raises `OnepassError` without a GPU or without bitsandbytes.
    """
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if device.type != "cuda":
        raise OnepassError(
            f"quantization {kind} needs a CUDA GPU, and the device is {device.type}; "
            "leave it out, or give a device with a GPU"
        )
    if not is_bitsandbytes_available():
        raise OnepassError(
            f"quantization {kind} needs bitsandbytes, which is not installed or is too old: "
            "pip install 'onepass[quantized]'"
        )
    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
