"""Merges that work on singular vectors, so that rotating all ΔW_i alike only rotates the result.

They are computed in the small core that all adapters share (`core_space`), exactly, and stay
low-rank.
"""

import torch
from torch import Tensor

from onepass.adapters.lora import Lora
from onepass.adapters.lowrank import rank_of, weighted_sum
from onepass.adapters.merging.spaces import core_space, from_core
from onepass.adapters.merging.stack import Stack, check_share, merge_method

_PARALLEL = 1e-6  # a direction of a stack that is this weak is another one over again


@merge_method("tsv", "Task singular vectors (TSV-M)", shares=False)
def tsv(stack: Stack, *, keep: float = 1.0) -> Lora:
    """Orthogonalise the singular vectors of all adapters among each other (arXiv 2412.00081).

    With ΔW_i = U_i S_i V_iᵀ, the share `keep` of the components of each, the stacked [U_1 .. U_N]
    and [V_1 .. V_N] are replaced by their nearest orthonormal matrices (Procrustes) and
    ΔW = U⊥ diag(w_i S_i) V⊥ᵀ. The paper keeps 1/N of all min(out, in) components, which for low
    ranks are all there are.
    """
    check_share("keep", keep)
    space = core_space(stack.loras)
    lefts, values, rights = [], [], []
    for core, weight, lora in zip(space.cores, stack.weights, stack.loras, strict=True):
        if not weight:
            continue  # it would still push the directions of the others aside
        u, s, vt = torch.linalg.svd(core, full_matrices=False)
        count = min(max(round(keep * lora.rank), 1), rank_of(s))
        lefts.append(u[:, :count])
        values.append(weight * s[:count])
        rights.append(vt[:count].T)
    if not lefts:
        return weighted_sum(stack.loras, stack.weights)
    left, right = (
        nearest_orthonormal(torch.cat(lefts, 1)),
        nearest_orthonormal(torch.cat(rights, 1)),
    )
    return from_core(space, left * torch.cat(values), right.T)


@merge_method("iso-c", "Isotropic merging (Iso-C)", shares=False)
def iso_c(stack: Stack) -> Lora:
    """The weighted sum with all its singular values replaced by their mean (arXiv 2502.04959).

    The mean is over the rank of the sum; the paper's is over min(out, in), which for a LoRA would
    spread it over directions that no adapter uses.
    """
    space = core_space(stack.loras)
    u, s, vt = _svd_of_sum(space.cores, stack.weights)
    return from_core(space, u * (s.mean() if s.numel() else 0.0), vt)


@merge_method("iso-cts", "Isotropic merging in common and task subspaces (Iso-CTS)", shares=False)
def iso_cts(stack: Stack, *, common: float = 0.8) -> Lora:
    """Iso-C after trading the sum's weakest directions for each adapter's own (arXiv 2502.04959).

    The share `common` of the sum's singular directions is kept. What each ΔW_i has outside of them
    gives its strongest directions, equally many per adapter that has any, to fill up the rank; all
    are orthogonalised, and every singular value becomes their mean.
    """
    check_share("common", common)
    space = core_space(stack.loras)
    u, s, vt = _svd_of_sum(space.cores, stack.weights)
    kept = max(1, round(common * s.numel())) if s.numel() else 0
    lefts, values, rights = [u[:, :kept]], [s[:kept]], [vt[:kept].T]
    outside = [
        torch.linalg.svd(
            weight * (core - u[:, :kept] @ (u[:, :kept].T @ core)), full_matrices=False
        )
        for core, weight in zip(space.cores, stack.weights, strict=True)
    ]
    least = 1e-10 * float(s[0]) if s.numel() else 0.0
    counts = [int((values > least).sum()) for _, values, _ in outside]
    having = sum(count > 0 for count in counts)
    share = (s.numel() - kept) // having if having else 0
    for (a, b, ct), count in zip(outside, counts, strict=True):
        own = min(share, count)
        lefts.append(a[:, :own])
        values.append(b[:own])
        rights.append(ct[:own].T)
    left, right = (
        nearest_orthonormal(torch.cat(lefts, 1)),
        nearest_orthonormal(torch.cat(rights, 1)),
    )
    spectrum = torch.cat(values)
    return from_core(space, left * (spectrum.mean() if spectrum.numel() else 0.0), right.T)


def nearest_orthonormal(matrix: Tensor) -> Tensor:
    """The matrix with orthonormal columns nearest to (n, k), k <= n: its polar factor.

    Where columns depend on each other they share a direction, instead of getting arbitrary ones.
    """
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    count = rank_of(s, _PARALLEL)
    nearest: Tensor = u[:, :count] @ vt[:count]
    return nearest


def _svd_of_sum(cores: list[Tensor], weights: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The singular triplets of Σ w_i C_i that are not zero."""
    total = torch.stack([w * core for core, w in zip(cores, weights, strict=True)]).sum(0)
    u, s, vt = torch.linalg.svd(total, full_matrices=False)
    count = rank_of(s)
    return u[:, :count], s[:count], vt[:count]
