"""Compress then merge: choose the subspace of the result first, merge the coordinates in it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from onepass.adapters.lora import Lora
from onepass.adapters.merging.consensus import disjoint_mean, weighted
from onepass.adapters.merging.spaces import core_space, from_core
from onepass.adapters.merging.sparse import merge_matrices
from onepass.adapters.merging.sparsify import keep_all, keep_largest
from onepass.adapters.merging.stack import (
    Stack,
    check_choice,
    check_count,
    check_number,
    check_share,
    merge_method,
)

_ITERATIONS = 20


@merge_method("ctm", "Compress then merge (CtM)", shares=False)
def ctm(
    stack: Stack,
    *,
    dimensions: int | None = None,
    beta: float = 0.5,
    rule: str = "ties",
    density: float = 0.2,
) -> Lora:
    """ΔW = U rule(Uᵀ ΔW_1 V, .., Uᵀ ΔW_N V) Vᵀ with shared bases of few `dimensions`.

    U and V (default: as many dimensions as the largest rank) are those of the Tucker-2
    decomposition of the ΔW_i, found by HOSVD and HOOI in the core space, where each ΔW_i counts
    with the norm beta ‖ΔW_i‖ + (1 - beta) mean ‖ΔW‖. `rule` is "ties" or "linear" (arXiv
    2606.03723).
    """
    check_share("density", density)
    check_choice("rule", rule, ("ties", "linear"))
    check_number("beta", beta, 0, 1)
    if dimensions is not None:
        check_count("dimensions", dimensions)
    space = core_space(stack.loras)
    size = max(lora.rank for lora in stack.loras) if dimensions is None else dimensions
    left, right = shared_bases(_rescaled(space.cores, beta), size)
    sparsifier, consensus = (
        (keep_largest(density), disjoint_mean) if rule == "ties" else (keep_all(), weighted)
    )
    coordinates = [left.T @ core @ right for core in space.cores]
    merged = merge_matrices(stack, coordinates, sparsifier, consensus)
    return from_core(space, left @ merged, right.T)


def _rescaled(cores: Sequence[Tensor], beta: float) -> list[Tensor]:
    """The ΔW_i with their norms drawn together, so that a strong one does not choose alone."""
    norms = torch.stack([torch.linalg.matrix_norm(core) for core in cores])
    wanted = beta * norms + (1 - beta) * norms.mean()
    shares = torch.where(norms > 0, wanted / norms.clamp(min=1e-300), 0.0)
    return [share * core for core, share in zip(cores, shares, strict=True)]


def shared_bases(matrices: Sequence[Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Orthonormal U (m, size) and V (n, size) that maximise Σ ‖Uᵀ M_i V‖², to a local optimum.

    Tucker-2 by higher-order orthogonal iteration (De Lathauwer, De Moor and Vandewalle 2000).
    """
    right = _leading([matrix.T for matrix in matrices], size)
    left = _leading([matrix @ right for matrix in matrices], size)
    for _ in range(_ITERATIONS):
        right = _leading([matrix.T @ left for matrix in matrices], size)
        left = _leading([matrix @ right for matrix in matrices], size)
    return left, right


def _leading(matrices: Sequence[Tensor], size: int) -> Tensor:
    """The strongest left singular vectors of matrices side by side."""
    basis: Tensor = torch.linalg.svd(torch.cat(list(matrices), 1), full_matrices=False)[0]
    return basis[:, :size]
