"""The best low-rank approximation of a dense matrix, found without its full SVD."""

import torch
from torch import Tensor

from onepass.adapters.adapter import Lora
from onepass.adapters.lowrank import Truncated, tall_svd

# Up to this size a full SVD is as fast as the randomised one, and exact.
_SMALL = 256
_OVERSAMPLING, _ITERATIONS = 16, 2


def truncate(matrix: Tensor, rank: int, generator: torch.Generator) -> Truncated:
    """(out, in) at a rank: exactly (Eckart-Young) where it is small, else by a randomised SVD.

    The range is found from Gaussian probes with power iterations (Halko, Martinsson and Tropp 2011,
    algorithms 4.4 and 5.1), at a few products of the matrix with `rank` + 16 columns.
    """
    size = float(torch.linalg.vector_norm(matrix)) ** 2
    if min(matrix.shape) <= max(_SMALL, rank + _OVERSAMPLING):
        u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    else:
        u, s, vt = _randomised(matrix, rank + _OVERSAMPLING, generator)
    root = s[:rank].sqrt()
    lora = Lora((root[:, None] * vt[:rank]).to(matrix.dtype), (u[:, :rank] * root).to(matrix.dtype))
    return Truncated(lora, max(size - float((s[:rank].double() ** 2).sum()), 0.0), size)


def _randomised(
    matrix: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    probes = torch.randn(matrix.shape[1], count, generator=generator, dtype=matrix.dtype)
    basis = torch.linalg.qr(matrix @ probes).Q
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(matrix.T @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    v, s, ut = tall_svd((basis.T @ matrix).T)
    return basis @ ut.T, s, v.T
