"""Loading a base in 8 or 4 bits, through transformers and bitsandbytes.

Weights so stored take no sum, so compositions are computed beside them (`attach.attached`).
"""

from typing import Any

import torch
from transformers import BitsAndBytesConfig
from transformers.utils import is_bitsandbytes_available

from onepass.core.errors import OnepassError

QUANTIZATIONS = ("none", "8bit", "4bit")


def quantization_config(kind: str, device: torch.device, dtype: torch.dtype) -> Any:
    """8 bits: LLM.int8() (arXiv 2208.07339). 4 bits: NF4 with double quantisation (2305.14314).

    `dtype` is that of the products. Raises `OnepassError` without a GPU or without bitsandbytes.
    """
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
