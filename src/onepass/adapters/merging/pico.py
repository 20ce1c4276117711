"""Pico: before any merge, scale down the output directions that the adapters crowd into."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from onepass.adapters.adapter import Lora
from onepass.adapters.lowrank import norm
from onepass.adapters.merging.stack import Merged, Stack


def calibrated(stack: Stack) -> Stack:
    """The stack with B_i replaced by (I + U diag(α - 1) Uᵀ) B_i (arXiv 2604.16826).

    U S Vᵀ is the SVD of [B_1 .. B_N], and α_j = 1 / (1 + (N-1) s_j²/Σs²) shrinks a direction the
    more of all the energy it holds. B is `up`, in which any scaling of the file is folded.
    """
    count = len(stack.loras)
    stacked = torch.cat([lora.up.detach().double() for lora in stack.loras], 1)
    if count < 2 or not stacked.shape[1]:
        return stack
    basis, core = torch.linalg.qr(stacked)
    u, s, _ = torch.linalg.svd(core, full_matrices=False)
    energy = float(s.square().sum())
    if not energy:
        return stack
    left = basis @ u
    shrink = 1 / (1 + (count - 1) * s.square() / energy) - 1
    loras = []
    for lora in stack.loras:
        up = lora.up.detach().double()
        loras.append(Lora(lora.down, (up + (left * shrink) @ (left.T @ up)).to(lora.up.dtype)))
    return replace(stack, loras=tuple(loras))


def restored(result: Merged, sources: Sequence[Lora]) -> Merged:
    """The result with the mean norm of the ΔW_i it was made from, as the paper restores it."""
    wanted = sum(norm(lora) for lora in sources) / len(sources)
    found = norm(result) if isinstance(result, Lora) else float(result.double().norm())
    factor = wanted / found if found else 1.0
    return Lora(result.down, result.up * factor) if isinstance(result, Lora) else result * factor
