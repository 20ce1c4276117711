"""How the sparse changes of several adapters become one: the second half of TIES and its kin."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Consensus = Callable[[Sequence[Tensor], Sequence[float]], Tensor]
"""From the sparse blocks of each adapter, which are used up, and weights, to the merged block."""


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
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for block, weight in zip(blocks, weights, strict=True):
        agreed = _agreed(block, sign)
        total.add_(agreed, alpha=weight)
        count.add_(agreed.sign_())
    return total.mul_(sign).div_(count.clamp_(min=1))


def weighted_mean(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """TIES as in mergekit: Σ w_i τ_i over those that agree, divided by the sum of their weights.

    The sign is that of Σ w_i τ_i, plus where that is zero. Weights must not be negative.
    """
    sign = _majority(blocks, weights)
    total, share = torch.zeros_like(sign), torch.zeros_like(sign)
    for block, weight in zip(blocks, weights, strict=True):
        agreed = _agreed(block, sign)
        total.add_(agreed, alpha=weight)
        share.add_(agreed.sign_(), alpha=weight)
    share[share == 0] = 1.0
    return total.mul_(sign).div_(share)


def agreeing_sum(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_i τ_i over those that have its sign: DARE-TIES and DELLA as in mergekit."""
    sign = _majority(blocks, weights)
    total = torch.zeros_like(sign)
    for block, weight in zip(blocks, weights, strict=True):
        total.add_(_agreed(block.mul_(weight), sign))
    return total.mul_(sign)


def _majority(blocks: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sign of Σ w_i τ_i as 1 or -1; 1 where it is zero."""
    return weighted(blocks, weights).sign_().add_(0.5).sign_()


def _agreed(block: Tensor, sign: Tensor) -> Tensor:
    """The magnitudes of the entries that have the sign, 0 elsewhere; in the block's own memory.

    Signs are multiplied in, not compared: torch's products in place are several times as fast as
    its comparisons, whose results have to be converted back.
    """
    return block.mul_(sign).clamp_(min=0)
