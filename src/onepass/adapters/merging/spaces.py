"""Coordinates in which several LoRAs of one module are small matrices that can be merged.

core    ΔW_i = left C_i right with bases shared by all adapters, C_i of at most (Σr, Σr): lossless
        (Core Space, arXiv 2509.17786).
knots   [ΔW_1 .. ΔW_N] = U S [V_1 .. V_N]ᵀ; what is merged are the S V_iᵀ of (Σr, in) (KnOTS,
        arXiv 2410.19735).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onepass.adapters.lora import Lora
from onepass.adapters.lowrank import rank_of, tall_svd, wide_dtype


@dataclass(frozen=True)
class CoreSpace:
    """left: (out, k) and right: (k', in), orthonormal; cores: (k, k') each; all float64."""

    left: Tensor
    cores: list[Tensor]
    right: Tensor
    dtype: torch.dtype
    """That of the factors to come."""


def core_space(loras: Sequence[Lora]) -> CoreSpace:
    """The bases are the singular vectors of the factors side by side, as in the paper.

    Rules that look at single entries depend on the basis, so it must be that one.
    """
    left, ups = _basis(torch.cat([lora.up.detach().double() for lora in loras], 1))
    right, downs = _basis(torch.cat([lora.down.detach().double() for lora in loras]).T)
    ranks = [lora.rank for lora in loras]
    cores = [
        up @ down.T
        for up, down in zip(torch.split(ups, ranks, 1), torch.split(downs, ranks, 1), strict=True)
    ]
    return CoreSpace(left, cores, right.T, wide_dtype(loras))


def from_core(space: CoreSpace, left: Tensor, right: Tensor) -> Lora:
    """The LoRA of the core `left @ right`, (k, n) and (n, k')."""
    return Lora((right @ space.right).to(space.dtype), (space.left @ left).to(space.dtype))


def knots_space(loras: Sequence[Lora]) -> tuple[Tensor, list[Tensor]]:
    """U (out, k) and the S V_iᵀ, (k, in) each, float64; ΔW_i = U (S V_iᵀ).

    The SVD is that of [B_1 R_1 .. B_N R_N] with R_i from A_i's QR, as the rest is orthonormal.
    """
    parts, bases = [], []
    for lora in loras:
        basis, core = torch.linalg.qr(lora.down.detach().double().T)
        parts.append(lora.up.detach().double() @ core.T)
        bases.append(basis)
    u, s, vt = tall_svd(torch.cat(parts, 1))
    count = rank_of(s)
    scaled = s[:count, None] * vt[:count]
    widths = [part.shape[1] for part in parts]
    rows = [
        scaled_part @ basis.T
        for scaled_part, basis in zip(torch.split(scaled, widths, 1), bases, strict=True)
    ]
    return u[:, :count], rows


def _basis(factors: Tensor) -> tuple[Tensor, Tensor]:
    """The left singular vectors (n, k) of (n, R), and the factors' coordinates (k, R) in them."""
    u, s, vt = tall_svd(factors)
    return u, s[:, None] * vt
