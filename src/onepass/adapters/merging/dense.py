"""The best low-rank approximation of a dense matrix, found without its full SVD."""

import torch
from torch import Tensor

from onepass.adapters.lora import Lora
from onepass.adapters.lowrank import Truncated

# Up to this size a full SVD is as fast as the randomised one, and exact.
_SMALL = 256
_OVERSAMPLING = 16


def truncate(matrix: Tensor, rank: int, seed: int) -> Truncated:
    """(out, in) at a rank: exactly (Eckart-Young) where it is small, else by a randomised SVD.

    `torch.svd_lowrank` finds the range by power iterations on Gaussian probes (Halko, Martinsson
    and Tropp 2011, algorithm 5.1), at a few products of the matrix with `rank` + 16 columns.
    """
    size = float(torch.linalg.vector_norm(matrix)) ** 2
    if min(matrix.shape) <= max(_SMALL, rank + _OVERSAMPLING):
        u, s, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):  # it draws from the global generator
            torch.default_generator.manual_seed(seed)  # the CPU alone
            u, s, v = torch.svd_lowrank(matrix, rank + _OVERSAMPLING)
        vt = v.T
    root = s[:rank].sqrt()
    lora = Lora((root[:, None] * vt[:rank]).to(matrix.dtype), (u[:, :rank] * root).to(matrix.dtype))
    return Truncated(lora, max(size - float((s[:rank].double() ** 2).sum()), 0.0), size)
