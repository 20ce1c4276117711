"""How the sparse changes of several adapters become one: the second half of TIES and its kin."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Consensus = Callable[[Sequence[Tensor], Sequence[float]], Tensor]
"""From the (already sparse) blocks of each adapter, and weights, to the merged block."""


def weighted(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_i τ_i."""
    total = blocks[0] * weights[0]
    for block, weight in zip(blocks[1:], weights[1:], strict=True):
        total.add_(block, alpha=weight)
    return total


def disjoint_mean(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """TIES (arXiv 2306.01708): the mean of those that have the sign of Σ τ_i, zeros left out.

    The sign is elected before the weights, which scale the values: Σ w_i τ_i / count. The paper has
    one λ for all in their place. Where the τ_i cancel out exactly, there is no sign and no change.
    """
    sign = weighted(blocks, [1.0] * len(blocks)).sign_()
    total, count = torch.zeros_like(blocks[0]), torch.zeros_like(blocks[0])
    for block, weight in zip(blocks, weights, strict=True):
        agrees = block * sign > 0
        total.add_(block * agrees, alpha=weight)
        count.add_(agrees)
    return total.div_(count.clamp_(min=1))


def weighted_mean(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """TIES as in mergekit: Σ w_i τ_i over those that agree, divided by the sum of their weights.

    The sign is that of Σ w_i τ_i, plus where that is zero.
    """
    majority = weighted(blocks, weights) >= 0
    total, share = torch.zeros_like(blocks[0]), torch.zeros_like(blocks[0])
    for block, weight in zip(blocks, weights, strict=True):
        value = block * weight
        agrees = torch.where(majority, value > 0, value < 0)
        total.add_(value * agrees)
        share.add_(agrees, alpha=weight)
    share[share == 0] = 1.0
    return total.div_(share)


def agreeing_sum(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_i τ_i over those that have its sign: DARE-TIES and DELLA as in mergekit."""
    majority = weighted(blocks, weights) >= 0
    total = torch.zeros_like(blocks[0])
    for block, weight in zip(blocks, weights, strict=True):
        value = block * weight
        total.add_(value * torch.where(majority, value > 0, value < 0))
    return total
