"""Pico: before any merge, scale down the output directions that the adapters crowd into."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from onepass.adapters.lora import Lora
from onepass.adapters.lowrank import norm, tall_svd, wide_dtype
from onepass.adapters.merging.stack import Change, Stack

_CANCELLED = 1e-5  # of the mean norm of the sources


def calibrated(stack: Stack) -> Stack:
    """The stack with B_i replaced by (I + U diag(α - 1) Uᵀ) B_i (arXiv 2604.16826).

    U S Vᵀ is the SVD of [B_1 .. B_N], and α_j = 1 / (1 + (N-1) s_j²/Σs²) shrinks a direction the
    more of all the energy it holds. B is `up`, in which any scaling of the file is folded. N counts
    the adapters that change the module.
    """
    count = sum(lora.rank > 0 for lora in stack.loras)
    stacked = torch.cat([lora.up.detach().double() for lora in stack.loras], 1)
    if count < 2 or not stacked.shape[1]:
        return stack
    left, s, _ = tall_svd(stacked)
    energy = float(s.square().sum())
    if not energy:
        return stack
    shrink = 1 / (1 + (count - 1) * s.square() / energy) - 1
    loras = []
    for lora in stack.loras:
        up, dtype = lora.up.detach().double(), wide_dtype([lora])
        shrunk = up + (left * shrink) @ (left.T @ up)
        loras.append(Lora(lora.down.to(dtype), shrunk.to(dtype)))
    return replace(stack, loras=tuple(loras))


def restored(result: Change, sources: Sequence[Lora]) -> Change:
    """The result with the mean norm of the ΔW_i it was made from, as the paper restores it.

    What has all but cancelled out stays as it is: scaled up, it would be rounding errors.
    """
    sizes = [norm(lora) for lora in sources if lora.rank]
    wanted = sum(sizes) / max(len(sizes), 1)
    if isinstance(result, Lora):
        found = norm(result)
    else:
        found = float(torch.linalg.vector_norm(result, dtype=torch.float64))
    if found < _CANCELLED * wanted or not found:
        return result
    factor = wanted / found
    return Lora(result.down, result.up * factor) if isinstance(result, Lora) else result * factor
