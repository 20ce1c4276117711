"""Which entries of a change are kept: the first half of TIES, DARE, DELLA and breadcrumbs.

A sparsifier first measures a whole change (one adapter's, of one module or of all), given as blocks
that it may go through more than once, and then treats block by block. So a dense change is never
held as a whole.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onepass.core.errors import OnepassError

Blocks = Callable[[], Iterator[Tensor]]
"""Goes through the rows of one or more matrices, a block of rows at a time."""

# Every so many entries are drawn for a sample; a prime, so that no column is preferred.
_STEP = 251


@dataclass(frozen=True)
class Sparsifier:
    """measure: what `apply` has to know of the whole; apply: a block, made sparse.

    `apply` may draw random numbers, block by block in their order, and may change its block.
    """

    measure: Callable[[Blocks], Any]
    apply: Callable[[Tensor, Any, torch.Generator], Tensor]


def keep_all() -> Sparsifier:
    return Sparsifier(lambda blocks: None, lambda block, measured, generator: block)


def keep_largest(density: float) -> Sparsifier:
    """Keep the share `density` of largest magnitude (and what ties with the least of them)."""
    if density == 1:
        return keep_all()

    def measure(blocks: Blocks) -> float:
        return largest(blocks, lambda total: int(density * total))

    return Sparsifier(measure, lambda block, least, generator: block.mul_(block.abs() >= least))


def drop_randomly(density: float, *, rescale: bool = True) -> Sparsifier:
    """DARE (arXiv 2311.03099): keep each entry with probability `density`, divided by it."""
    if density == 1:
        return keep_all()
    scale = 1 / density if rescale else 1.0

    def apply(block: Tensor, measured: None, generator: torch.Generator) -> Tensor:
        kept = torch.empty_like(block).bernoulli_(density, generator=generator)
        return block.mul_(kept.mul_(scale))

    return Sparsifier(lambda blocks: None, apply)


def drop_by_rank(density: float, epsilon: float, *, rescale: bool = True) -> Sparsifier:
    """DELLA (arXiv 2406.11617): within a row, larger entries are kept with a greater probability.

    It rises linearly with the rank of the magnitude, from density - epsilon to density + epsilon;
    what is kept is divided by its own probability.
    """
    if density == 1:
        return keep_all()
    if density - epsilon <= 0 or density + epsilon >= 1 or epsilon < 0:
        raise OnepassError(
            f"density {density} with epsilon {epsilon}: density - epsilon and density + epsilon "
            "must lie between 0 and 1"
        )

    def apply(block: Tensor, measured: None, generator: torch.Generator) -> Tensor:
        width = block.shape[1]
        order = block.abs().argsort(dim=1, stable=True)
        rising = torch.linspace(density - epsilon, density + epsilon, width).expand(block.shape)
        chance = torch.empty_like(block).scatter_(1, order, rising.to(block.dtype))
        kept = torch.bernoulli(chance, generator=generator)
        return block.mul_(kept.div_(chance) if rescale else kept)

    return Sparsifier(lambda blocks: None, apply)


def keep_middle(density: float, gamma: float) -> Sparsifier:
    """Model breadcrumbs (arXiv 2312.06795): keep the share `density` below the `gamma` largest.

    The largest are dropped as outliers, and the smallest as noise.
    """
    if not 0 <= gamma < 1 or density + gamma > 1:
        raise OnepassError(
            f"density {density} with gamma {gamma}: gamma must be at least 0, and both at most 1 "
            "together"
        )

    def measure(blocks: Blocks) -> tuple[float, float]:
        least = largest(blocks, lambda total: int(density * total) + int(gamma * total))
        most = largest(blocks, lambda total: int(gamma * total)) if gamma else math.inf
        return least, most

    def apply(block: Tensor, bounds: tuple[float, float], generator: torch.Generator) -> Tensor:
        size = block.abs()
        return block.mul_((size >= bounds[0]) & (size < bounds[1]))

    return Sparsifier(measure, apply)


def largest(blocks: Blocks, count_of: Callable[[int], int]) -> float:
    """The k-th largest magnitude, exactly, k = `count_of(number of entries)`, at least 1.

    A sample brackets it; one pass counts what lies above the bracket and collects what lies in it,
    which is sorted (Floyd and Rivest 1975). Should the bracket miss, all magnitudes are collected.
    """
    total, drawn = _sample(blocks)
    if not total:
        return 0.0
    wanted = min(max(count_of(total), 1), total)
    low, high = _bracket(drawn, wanted / total)
    above, within = _collect(blocks, low, high)
    if not above < wanted <= above + within.numel():
        above, within = _collect(blocks, 0.0, math.inf)
    # kthvalue counts from the smallest.
    return float(within.kthvalue(within.numel() - (wanted - above) + 1).values)


def _sample(blocks: Blocks) -> tuple[int, Tensor]:
    """How many entries there are, and the magnitudes of some of them, evenly spread."""
    total, drawn = 0, [torch.empty(0)]
    for block in blocks():
        total += block.numel()
        drawn.append(block.flatten()[::_STEP].abs().float())
    return total, torch.cat(drawn)


def _bracket(drawn: Tensor, share: float) -> tuple[float, float]:
    """Magnitudes that most likely lie below and above the one that `share` of all reach."""
    drawn = drawn.sort(descending=True).values
    place, margin = share * drawn.numel(), 4 * math.sqrt(drawn.numel()) + 1
    first, last = math.floor(place - margin), math.ceil(place + margin)
    high = float(drawn[first]) if first >= 0 else math.inf
    low = float(drawn[last]) if last < drawn.numel() else 0.0
    return low, high


def _collect(blocks: Blocks, low: float, high: float) -> tuple[int, Tensor]:
    """How many magnitudes are `high` or more, and those from `low` to below `high`."""
    above, within = 0, []
    for block in blocks():
        size = block.abs()
        above += int((size >= high).sum())
        within.append(size[(size >= low) & (size < high)])
    return above, torch.cat(within)
