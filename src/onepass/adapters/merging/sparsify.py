"""Which entries of a change are kept: the first half of TIES, DARE, DELLA and breadcrumbs.

A sparsifier first measures a whole change (one adapter's, of one module or of all), given as
`Entries`, and then treats block by block. So a dense change is never held as a whole.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from onepass.adapters.merging.stack import Random, check_number
from onepass.core.errors import OnepassError

# One entry in so many is drawn for a sample; a prime, so that no column is preferred.
STEP = 251
_LEVELS = 1 << 16

Magnitudes = np.ndarray[tuple[int], Any]


@dataclass(frozen=True)
class Entries:
    """The entries of one or more matrices, without all of them being in memory.

    total: how many there are.
    blocks: goes through the matrices by blocks of rows, as often as it is called; a block is good
        until the next.
    sample: some magnitudes from all over, about one in `STEP`.
    """

    total: int
    blocks: Callable[[], Iterator[Tensor]]
    sample: Callable[[], Tensor]


def entries_of(matrix: Tensor) -> Entries:
    """Those of a matrix that is small enough to be there."""
    return Entries(matrix.numel(), lambda: iter([matrix]), lambda: matrix.flatten()[::STEP].abs())


@dataclass(frozen=True)
class Sparsifier:
    """measure: what `apply` has to know of the whole; apply: a block, made sparse.

    `apply` may draw random numbers, block by block in their order, and may change its block.
    """

    measure: Callable[[Entries], Any]
    apply: Callable[[Tensor, Any, Random], Tensor]


def keep_all() -> Sparsifier:
    return Sparsifier(lambda entries: None, lambda block, measured, generator: block)


def keep_largest(density: float) -> Sparsifier:
    """Keep the share `density` of largest magnitude (and what ties with the least of them)."""
    if density == 1:
        return keep_all()

    def measure(entries: Entries) -> float:
        return largest(entries, int(density * entries.total))

    return Sparsifier(measure, lambda block, least, generator: _at_least(block, least))


def _at_least(block: Tensor, least: float) -> Tensor:
    """The block with 0 for entries of a magnitude below `least`."""
    # hardshrink keeps what is above its bound, so the bound is the number just below `least`.
    below = torch.nextafter(torch.tensor(least, dtype=block.dtype), torch.tensor(-1.0))
    return hardshrink(block, float(below))


def drop_randomly(density: float) -> Sparsifier:
    """DARE (arXiv 2311.03099): keep each entry with probability `density`, divided by it."""
    if density == 1:
        return keep_all()

    threshold = max(round(density * _LEVELS), 1)

    def apply(block: Tensor, measured: None, generator: Random) -> Tensor:
        kept = _draw(block, generator) < threshold
        # As bytes, which torch converts several times faster than truth values.
        factor = torch.from_numpy(kept.view(np.uint8)).to(block.dtype)
        return block.mul_(factor.mul_(_LEVELS / threshold))

    return Sparsifier(lambda entries: None, apply)


def _draw(block: Tensor, generator: Random) -> np.ndarray[tuple[int, ...], Any]:
    """A number from 0 to below `_LEVELS` for each entry: random enough to drop by, and cheap."""
    return generator.integers(0, _LEVELS, size=tuple(block.shape), dtype=np.uint16)


def drop_by_rank(density: float, epsilon: float) -> Sparsifier:
    """DELLA (arXiv 2406.11617): within a row, larger entries are kept with a greater probability.

    It rises linearly with the rank of the magnitude, from density - epsilon to density + epsilon;
    what is kept is divided by its own probability.
    """
    check_number("epsilon", epsilon, 0, 1)
    if density == 1:
        return keep_all()
    if density - epsilon <= 0 or density + epsilon >= 1:
        raise OnepassError(
            f"density {density} with epsilon {epsilon}: density - epsilon and density + epsilon "
            "must lie between 0 and 1"
        )

    def apply(block: Tensor, measured: None, generator: Random) -> Tensor:
        width = block.shape[1]
        order = block.abs().argsort(dim=1, stable=True)
        rising = torch.linspace(density - epsilon, density + epsilon, width).expand(block.shape)
        chance = torch.empty_like(block).scatter_(1, order, rising.to(block.dtype))
        drawn = torch.from_numpy(_draw(block, generator).astype(np.float32))
        return block.mul_(drawn < chance * _LEVELS).div_(chance)

    return Sparsifier(lambda entries: None, apply)


def keep_middle(density: float, gamma: float) -> Sparsifier:
    """Model breadcrumbs (arXiv 2312.06795): keep the share `density` below the `gamma` largest.

    The largest are dropped as outliers, and the smallest as noise.
    """
    check_number("gamma", gamma, 0, 1)
    if density + gamma > 1:
        raise OnepassError(f"density {density} with gamma {gamma}: together they must be at most 1")

    def measure(entries: Entries) -> tuple[float, float]:
        dropped = int(gamma * entries.total)
        most = largest(entries, dropped) if dropped else math.inf
        return largest(entries, dropped + max(int(density * entries.total), 1)), most

    def apply(block: Tensor, bounds: tuple[float, float], generator: Random) -> Tensor:
        return _at_least(block, bounds[0]).sub_(_at_least(block, bounds[1]))

    return Sparsifier(measure, apply)


def largest(entries: Entries, wanted: int) -> float:
    """The magnitude that is the `wanted`-th largest (the first, if that is 0), exactly.

    A sample brackets it; one pass counts what lies above the bracket and collects what lies in it,
    where the right one is selected (Floyd and Rivest 1975). Should the bracket miss, more passes
    look on either side of it.
    """
    wanted = min(max(wanted, 1), entries.total)
    low, high = _bracket(entries.sample().numpy(), wanted / max(entries.total, 1))
    for bounds in ((low, high), (high, math.inf), (0.0, low)):
        above, within = _collect(entries, *bounds)
        if above < wanted <= above + len(within):
            return _descending(within, wanted - above - 1)
    return 0.0


def _bracket(drawn: Magnitudes, share: float) -> tuple[float, float]:
    """Magnitudes that most likely lie below and above the one that `share` of all reach."""
    # In a sample a quantile's place is off by √count / 2 or less on average: four times that.
    place, margin = share * len(drawn), 2 * math.sqrt(len(drawn)) + 1
    first, last = math.floor(place - margin), math.ceil(place + margin)
    high = _descending(drawn, first) if first >= 0 else math.inf
    low = _descending(drawn, last) if last < len(drawn) else 0.0
    return low, high


def _collect(entries: Entries, low: float, high: float) -> tuple[int, Magnitudes]:
    """How many magnitudes are above `high`, and those that are above `low` and not above `high`."""
    # numpy compares, counts and selects several times faster than torch.
    above, within = 0, [np.empty(0, np.float32)]
    for block in entries.blocks():
        size = block.abs().numpy()
        found = size > low
        reached = int(np.count_nonzero(found))
        found &= size <= high
        within.append(size[found])
        above += reached - len(within[-1])
    return above, np.concatenate(within)


def _descending(values: Magnitudes, place: int) -> float:
    """What would stand at `place` if the values were sorted, the largest first."""
    rising = len(values) - 1 - place
    return float(np.partition(values, rising)[rising])
