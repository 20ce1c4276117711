"""Exact algebra on LoRAs that never forms the dense ΔW.

A sum of low-rank matrices is their factors side by side; its norm and its best approximation of
lower rank come from the small core of two QR decompositions, at a cost linear in the layer's width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from onepass.adapters.lora import Lora
from onepass.core.errors import OnepassError


def weighted_sum(loras: Sequence[Lora], weights: Sequence[float]) -> Lora:
    """Σ w_i ΔW_i, exactly: rank Σ r_i, the weights folded into `up`; differentiable.

    In the widest dtype of its parts, at least float32 (a weight folded into 16 bits would round).
    """
    check_summable(loras, weights)
    dtype = wide_dtype(loras)
    return Lora(
        down=torch.cat([lora.down.to(dtype) for lora in loras]),
        up=torch.cat([lora.up.to(dtype) * w for lora, w in zip(loras, weights, strict=True)], 1),
    )


# The least squared singular value, relative to the largest, that squares in float64 tell well.
_SQUARES = 1e-9


@dataclass(frozen=True)
class Truncated:
    """A change of lower rank; squared Frobenius norms of what it misses and of the whole."""

    lora: Lora
    missed: float
    size: float


def compress(lora: Lora, rank: int) -> Truncated:
    """The nearest LoRA of at most `rank` in the Frobenius norm (Eckart-Young), same dtype.

    The singular values go half to each factor, so that both keep the same scale.
    """
    if rank < 1:
        raise OnepassError(f"rank {rank}: a LoRA needs at least rank 1")
    return (_by_squares(lora, rank) if rank < lora.rank else None) or _by_qr(lora, rank)


def _by_squares(lora: Lora, rank: int) -> Truncated | None:
    """From the eigenvectors of (r, r) products of the factors, at a fifth of the cost of QR.

    With A Aᵀ = V Λ Vᵀ and R = Λ^½ Vᵀ, ΔW = B A = (B Rᵀ) Qᵀ where Q has orthonormal columns; the
    singular values of ΔW are the roots of the eigenvalues of (B Rᵀ)ᵀ B Rᵀ = W S² Wᵀ, and
    U = B Rᵀ W S⁻¹, Vᵀ = S⁻² Wᵀ (R BᵀB) A. Squares keep half of float64's digits: None where that
    would show in the part that is kept.
    """
    down, up = lora.down.detach().double(), lora.up.detach().double()
    square = up.T @ up
    values, vectors = torch.linalg.eigh(down @ down.T)
    root = values.clamp(min=0).sqrt()[:, None] * vectors.T
    squared, w = torch.linalg.eigh(root @ square @ root.T)
    squared, kept = squared.clamp(min=0).flip(0), w.flip(1)[:, :rank]
    if squared[rank - 1] <= _SQUARES * squared[0]:
        return None
    s = squared[:rank].sqrt()
    dtype = wide_dtype([lora])
    small = Lora(
        ((kept.T @ root @ square) / s[:, None] ** 1.5).to(dtype) @ lora.down.detach().to(dtype),
        lora.up.detach().to(dtype) @ (root.T @ kept / s.sqrt()).to(dtype),
    )
    small = Lora(small.down.to(lora.down.dtype), small.up.to(lora.up.dtype))
    return Truncated(small, float(squared[rank:].sum()), float(squared.sum()))


def _by_qr(lora: Lora, rank: int) -> Truncated:
    left, core, right = core_of(lora)
    u, s, vt = torch.linalg.svd(core, full_matrices=False)
    root = s[:rank].sqrt()
    up = left @ (u[:, :rank] * root)
    down = (root[:, None] * vt[:rank]) @ right
    small = Lora(down.to(lora.down.dtype), up.to(lora.up.dtype))
    return Truncated(small, float(s[rank:].square().sum()), float(s.square().sum()))


def tall_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The thin SVD u, s, vt of (n, k), k <= n by far, at the cost of its QR."""
    q, r = torch.linalg.qr(matrix)
    u, s, vt = torch.linalg.svd(r, full_matrices=False)
    return q @ u, s, vt


def rank_of(values: Tensor, tolerance: float = 1e-10) -> int:
    """How many singular values (descending) are above `tolerance` times the largest."""
    return int((values > tolerance * values[0]).sum()) if values.numel() else 0


def norm(lora: Lora) -> float:
    """The Frobenius norm of ΔW."""
    _, core, _ = core_of(lora)
    return float(torch.linalg.matrix_norm(core))


def gram(loras: Sequence[Lora]) -> Tensor:
    """The inner products <ΔW_i, ΔW_j> (sums over all entries), (N, N) in float64."""
    ups = [lora.up.detach().double() for lora in loras]
    downs = [lora.down.detach().double() for lora in loras]
    products = torch.zeros(len(loras), len(loras), dtype=torch.float64)
    for i in range(len(loras)):
        for j in range(i, len(loras)):
            value = ((ups[i].T @ ups[j]) * (downs[i] @ downs[j].T)).sum()
            products[i, j] = products[j, i] = value
    return products


def relative_error(approximate: Lora, exact: Lora) -> float:
    """‖ΔW_approximate - ΔW_exact‖ / ‖ΔW_exact‖ (Frobenius); inf if only the exact one is zero."""
    error, size = norm(weighted_sum([approximate, exact], [1.0, -1.0])), norm(exact)
    return error / size if size else (float("inf") if error else 0.0)


def padded(lora: Lora, rank: int) -> Lora:
    """The same ΔW in factors of a higher `rank`, filled up with zeros."""
    more = rank - lora.rank
    return Lora(F.pad(lora.down, (0, 0, 0, more)), F.pad(lora.up, (0, more)))


def unpadded(lora: Lora) -> Lora:
    """The same ΔW without the components that are zero in both factors; of rank 1 at least."""
    used = lora.down.any(1) | lora.up.any(0)
    used[0] = True
    return lora if bool(used.all()) else Lora(lora.down[used], lora.up[:, used])


def balanced(lora: Lora) -> Lora:
    """The same ΔW, each of its r components with norms of `down` and `up` as equal as they get.

    They change by powers of two, so that nothing is rounded. Float32 or wider.
    """
    down, up = (factor.detach().to(wide_dtype([lora])) for factor in (lora.down, lora.up))
    ratio = (up.double().norm(dim=0) / down.double().norm(dim=1)).sqrt()
    usable = ratio.isfinite() & (ratio > 0)
    power = torch.where(usable, ratio, 1.0).log2().round().int()
    return Lora(torch.ldexp(down, power[:, None]), torch.ldexp(up, -power))


def squared_errors(approximate: Lora, exact: Lora) -> tuple[float, float]:
    """‖ΔW_approximate - ΔW_exact‖² of two LoRAs of one rank, and ‖ΔW_exact‖² (Frobenius).

    For factors that differ by little: the difference is (U' - U) D' + U (D' - D), where nothing
    cancels out.
    """
    down, up = exact.down.detach().double(), exact.up.detach().double()
    near_down, near_up = approximate.down.detach().double(), approximate.up.detach().double()
    difference = Lora(torch.cat([near_down, near_down - down]), torch.cat([near_up - up, up], 1))
    return float(gram([difference])[0, 0]), float(gram([exact])[0, 0])


def check_summable(loras: Sequence[Lora], weights: Sequence[float]) -> None:
    """Refuse an empty sum, a count of weights that differs, or LoRAs of different shapes."""
    if not loras or len(loras) != len(weights):
        raise OnepassError(
            f"{len(loras)} LoRAs and {len(weights)} weights: give a weight for each of at least one"
        )
    shapes = {lora.shape for lora in loras}
    if len(shapes) > 1:
        raise OnepassError(f"cannot sum LoRAs of different shapes (out, in): {sorted(shapes)}")


def wide_dtype(loras: Sequence[Lora]) -> torch.dtype:
    """The dtype that holds every factor without rounding, float32 or wider."""
    dtype = torch.float32
    for lora in loras:
        dtype = torch.promote_types(dtype, torch.promote_types(lora.down.dtype, lora.up.dtype))
    return dtype


def core_of(lora: Lora) -> tuple[Tensor, Tensor, Tensor]:
    """ΔW = left @ core @ right with orthonormal (out, k) and (k', in), core (k, k'), k <= r.

    In float64: it costs little at these sizes, and the difference of two near-equal LoRAs, which
    is what `relative_error` measures, keeps its digits.
    """
    left, left_core = torch.linalg.qr(lora.up.detach().double())
    right, right_core = torch.linalg.qr(lora.down.detach().double().T)
    return left, left_core @ right_core.T, right.T
