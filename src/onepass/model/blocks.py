"""Numbers in 8 or 4 bits as a GGUF file stores them, in blocks with a scale. Needs no torch."""

import numpy as np
from numpy.typing import NDArray

from onepass.core.optional import optional

BLOCK = 32
"""Numbers that share a scale in Q8_0 and Q4_0."""

Array = NDArray[np.float32]


def stored_values(values: Array, kind: str) -> Array:
    """The numbers (rows, n) that an engine reads back from `values` stored as `kind`, float32.

    A block of 32 numbers of a row has a scale of 16 bits and 8 or 4 bits for each of them
    (https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-quants.c).
    """
    gguf = optional("gguf", "device")
    type_ = gguf.GGMLQuantizationType[kind.upper()]
    found: Array = gguf.quants.dequantize(gguf.quants.quantize(values, type_), type_)
    return found
