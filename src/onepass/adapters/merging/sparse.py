"""TIES, DARE and their kin: make each change sparse, then let the adapters agree entry by entry.

Entries are those of ΔW (`space` "full"), or of the adapters' coordinates in a shared basis ("core",
"knots"; see `spaces`). In the full space the result is dense and the engine truncates it; in the
others it stays low-rank.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from onepass.adapters.lora import Lora
from onepass.adapters.lowrank import wide_dtype
from onepass.adapters.merging.consensus import (
    Consensus,
    agreeing_sum,
    disjoint_mean,
    weighted,
    weighted_mean,
)
from onepass.adapters.merging.spaces import core_space, knots_space
from onepass.adapters.merging.sparsify import (
    STEP,
    Entries,
    Sparsifier,
    drop_by_rank,
    drop_randomly,
    entries_of,
    keep_largest,
    keep_middle,
)
from onepass.adapters.merging.stack import (
    Change,
    Stack,
    add_merge,
    check_choice,
    check_share,
    merge_method,
    options_of,
)
from onepass.core.errors import OnepassError

SPACES = ("full", "core", "knots")
# Entries of ΔW at a time: few enough for the caches, enough to make products worth while.
_BLOCK = 1 << 19


def ties(
    stacks: Sequence[Stack], *, density: float = 0.2, variant: str = "paper", space: str = "full"
) -> Iterator[Change]:
    """Trim, elect a sign, merge what agrees (TIES, arXiv 2306.01708).

    `variant`: "paper" keeps the share `density` of all of an adapter's entries together (in the
    full space); "peft" of each module's, with the same election; "mergekit" of each module's,
    electing and averaging with weights, which must not be negative.
    """
    check_share("density", density)
    check_choice("variant", variant, ("paper", "peft", "mergekit"))
    sparsifier = keep_largest(density)
    together: list[Any] | None = None
    if variant == "paper" and space == "full":
        together = [
            sparsifier.measure(lora_entries([x for s in stacks if (x := s.loras[adapter]).rank]))
            for adapter in range(len(stacks[0].loras))
        ]
    for stack in stacks:
        yield merge_sparse(stack, sparsifier, _mean_of(variant, stack), space, together)


add_merge("ties", "TIES", ties, options_of(ties), shares=False)


@merge_method("magnitude-prune", "Magnitude pruning")
def magnitude_prune(stack: Stack, *, density: float = 0.5, space: str = "full") -> Change:
    """The weighted sum of each adapter's largest entries (PEFT's `magnitude_prune`, on ΔW)."""
    check_share("density", density)
    return merge_sparse(stack, keep_largest(density), weighted, space)


@merge_method("dare", "DARE")
def dare(stack: Stack, *, density: float = 0.5, space: str = "full") -> Change:
    """Drop entries at random, rescale, add up: DARE with task arithmetic (arXiv 2311.03099)."""
    check_share("density", density)
    return merge_sparse(stack, drop_randomly(density), weighted, space)


@merge_method("dare-ties", "DARE with TIES", shares=False)
def dare_ties(
    stack: Stack, *, density: float = 0.5, variant: str = "paper", space: str = "full"
) -> Change:
    """DARE, then TIES' election; `variant` "mergekit" adds up what agrees instead of averaging."""
    check_share("density", density)
    check_choice("variant", variant, ("paper", "mergekit"))
    consensus = agreeing_sum if variant == "mergekit" else disjoint_mean
    return merge_sparse(stack, drop_randomly(density), consensus, space)


@merge_method("della", "DELLA", shares=False)
def della(
    stack: Stack,
    *,
    density: float = 0.5,
    epsilon: float = 0.1,
    variant: str = "paper",
    space: str = "full",
) -> Change:
    """Drop entries the likelier the smaller they are, then TIES' election (arXiv 2406.11617)."""
    check_share("density", density)
    check_choice("variant", variant, ("paper", "mergekit"))
    consensus = agreeing_sum if variant == "mergekit" else disjoint_mean
    return merge_sparse(stack, drop_by_rank(density, epsilon), consensus, space)


@merge_method("breadcrumbs", "Model breadcrumbs")
def breadcrumbs(
    stack: Stack, *, density: float = 0.85, gamma: float = 0.01, space: str = "full"
) -> Change:
    """The weighted sum of each adapter's middling entries (arXiv 2312.06795)."""
    check_share("density", density)
    return merge_sparse(stack, keep_middle(density, gamma), weighted, space)


@merge_method("knots", "KnOTS with TIES", shares=False)
def knots(stack: Stack, *, density: float = 0.2, variant: str = "peft") -> Change:
    """TIES on the adapters' coordinates in the basis that they share (arXiv 2410.19735)."""
    check_share("density", density)
    check_choice("variant", variant, ("peft", "mergekit"))
    return merge_sparse(stack, keep_largest(density), _mean_of(variant, stack), "knots")


def _mean_of(variant: str, stack: Stack) -> Consensus:
    """How a variant of TIES averages; a mean by negative weights would divide the sign away."""
    if variant != "mergekit":
        return disjoint_mean
    if min(stack.weights) < 0:
        raise OnepassError(
            f"{stack.module}: weights {list(stack.weights)}; the variant mergekit averages by "
            "weights, so none may be negative; use the variant paper or peft"
        )
    return weighted_mean


def merge_sparse(
    stack: Stack,
    sparsifier: Sparsifier,
    consensus: Consensus,
    space: str,
    measured: Sequence[Any] | None = None,
) -> Change:
    """Sparsify and agree in a space; `measured`: per adapter, if it was measured beforehand."""
    check_choice("space", space, SPACES)
    if space == "core":
        core = core_space(stack.loras)
        merged = merge_matrices(stack, core.cores, sparsifier, consensus)
        return Lora(core.right.to(core.dtype), (core.left @ merged).to(core.dtype))
    if space == "knots":
        left, rows = knots_space(stack.loras)
        dtype = wide_dtype(stack.loras)
        merged = merge_matrices(stack, rows, sparsifier, consensus)
        return Lora(merged.to(dtype), left.to(dtype))
    return _merge_dense(stack, sparsifier, consensus, measured)


def merge_matrices(
    stack: Stack, matrices: Sequence[Tensor], sparsifier: Sparsifier, consensus: Consensus
) -> Tensor:
    """Sparsify and agree on one matrix per adapter, which are used up."""
    sparse = [
        sparsifier.apply(matrix, sparsifier.measure(entries_of(matrix)), stack.generator(adapter))
        for adapter, matrix in enumerate(matrices)
    ]
    return consensus(sparse, stack.weights)


def _merge_dense(
    stack: Stack, sparsifier: Sparsifier, consensus: Consensus, measured: Sequence[Any] | None
) -> Tensor:
    """Block by block, so that beside the result only a block of each ΔW_i is ever in memory."""
    adapters = range(len(stack.loras))
    if measured is None:
        measured = [sparsifier.measure(lora_entries([lora])) for lora in stack.loras]
    generators = [stack.generator(adapter) for adapter in adapters]
    merged = torch.empty(stack.shape, dtype=wide_dtype(stack.loras))
    row = 0
    for blocks in zip(*(blocks_of(lora) for lora in stack.loras), strict=True):
        sparse = [sparsifier.apply(blocks[i], measured[i], generators[i]) for i in adapters]
        merged[row : row + len(sparse[0])] = consensus(sparse, stack.weights)
        row += len(sparse[0])
    return merged


def blocks_of(lora: Lora) -> Iterator[Tensor]:
    """ΔW by blocks of rows, which may be changed; each in the memory of the one before.

    Memory new to the process costs as much time as the product that fills it.
    """
    dtype = wide_dtype([lora])
    up, down = lora.up.detach().to(dtype), lora.down.detach().to(dtype)
    out, in_ = lora.shape
    block = torch.empty(min(max(_BLOCK // in_, 1), out), in_, dtype=dtype)
    for rows in torch.split(up, len(block)):
        yield torch.mm(rows, down, out=block[: len(rows)])


def lora_entries(loras: Sequence[Lora]) -> Entries:
    """The entries of ΔW of one or more modules together."""
    return Entries(
        sum(out * in_ for out, in_ in (lora.shape for lora in loras)),
        lambda: (block for lora in loras for block in blocks_of(lora)),
        lambda: _sample(loras),
    )


def _sample(loras: Sequence[Lora]) -> Tensor:
    """Entries at random places, computed one by one: a dense ΔW costs a thousand times as much."""
    random, drawn = torch.Generator().manual_seed(0), [torch.empty(0)]
    for lora in loras:
        out, in_ = lora.shape
        count = math.ceil(out * in_ / STEP)
        rows = torch.randint(out, (count,), generator=random)
        columns = torch.randint(in_, (count,), generator=random)
        dtype = wide_dtype([lora])
        up, down = lora.up.detach().to(dtype), lora.down.detach().to(dtype)
        products = up.index_select(0, rows).mul_(down.T.contiguous().index_select(0, columns))
        drawn.append(products.sum(1).abs_().float())
    return torch.cat(drawn)
