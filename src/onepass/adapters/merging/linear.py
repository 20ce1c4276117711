"""Merges whose result is a weighted sum of the adapters: they differ in how weights are found.

All of them are exact and low-rank. The spherical ones need only the inner products of the ΔW_i, as
their results lie in the span of the ΔW_i.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from onepass.adapters.lora import Lora
from onepass.adapters.lowrank import gram, weighted_sum, wide_dtype
from onepass.adapters.merging.stack import Stack, merge_method
from onepass.core.errors import OnepassError

# As in mergekit: beyond this cosine two directions count as one, and slerp as linear.
_PARALLEL = 0.9995
_TINY = 1e-12


@merge_method("linear", "Linear (task arithmetic)")
def linear(stack: Stack) -> Lora:
    """ΔW = Σ w_i ΔW_i (arXiv 2212.04089), exactly; rank Σ r_i. The weights go to `up`."""
    return weighted_sum(stack.loras, stack.weights)


@merge_method("concat", "Concatenation (PEFT's cat)")
def concat(stack: Stack) -> Lora:
    """PEFT's `cat`: the same ΔW as `linear`, the weights on the rows of `down`.

    The factors matter only to a training that goes on from them.
    """
    dtype = wide_dtype(stack.loras)
    down = [x.down.to(dtype) * w for x, w in zip(stack.loras, stack.weights, strict=True)]
    return Lora(torch.cat(down), torch.cat([x.up.to(dtype) for x in stack.loras], dim=1))


@merge_method("peft-linear", "Linear (PEFT)")
def peft_linear(stack: Stack) -> Lora:
    """PEFT's `linear`: down = Σ sgn(w_i) √|w_i| down_i, up = Σ √|w_i| up_i; one rank for all.

    Not linear in ΔW: the product holds the cross terms up_i down_j of one adapter with another
    (peft `LoraModel.add_weighted_adapter`). Equal to PEFT's where the adapters have one scaling;
    with several, PEFT's cross terms weigh differently.
    """
    roots = [abs(weight) ** 0.5 for weight in stack.weights]
    signed = [math.copysign(root, w) for root, w in zip(roots, stack.weights, strict=True)]
    return sum_factors(stack.loras, signed, roots, f"{stack.module}: peft-linear")


def sum_factors(
    loras: Sequence[Lora], downs: Sequence[float], ups: Sequence[float], what: str
) -> Lora:
    """The LoRA of Σ downs_i down_i and Σ ups_i up_i; those of rank 0 add nothing.

    `what` does this, and is named should the ranks differ.
    """
    present = [row for row in zip(loras, downs, ups, strict=True) if row[0].rank]
    ranks = sorted({lora.rank for lora, _, _ in present})
    if len(ranks) > 1:
        raise OnepassError(
            f"{what} adds factors, so it needs one rank, found {ranks}; use linear instead"
        )
    if not present:
        return loras[0]
    dtype = wide_dtype(loras)
    return Lora(
        torch.stack([lora.down.to(dtype) * weight for lora, weight, _ in present]).sum(0),
        torch.stack([lora.up.to(dtype) * weight for lora, _, weight in present]).sum(0),
    )


@merge_method("slerp", "Spherical interpolation (two adapters)")
def slerp(stack: Stack) -> Lora:
    """From ΔW_1 to ΔW_2 along the arc, by t = w_2 / (w_1 + w_2), as in mergekit.

    ΔW = sin((1-t)θ)/sin θ · ΔW_1 + sin(tθ)/sin θ · ΔW_2 with θ the angle between the two as vectors
    (Shoemake 1985); linear where |cos θ| > 0.9995 or one is zero.
    """
    if len(stack.loras) == 1:
        return linear(stack)
    if len(stack.loras) != 2:
        raise OnepassError(
            f"slerp is between two adapters, found {len(stack.loras)}; use multi-slerp"
        )
    t = stack.weights[1] / _total(stack.weights)
    products = gram(stack.loras)
    size = float((products[0, 0] * products[1, 1]).sqrt())
    cosine = float(products[0, 1]) / size if size > _TINY else 1.0
    if abs(cosine) > _PARALLEL:
        return weighted_sum(stack.loras, [1 - t, t])
    angle = math.acos(cosine)
    shares = [math.sin((1 - t) * angle), math.sin(t * angle)]
    return weighted_sum(stack.loras, [share / math.sin(angle) for share in shares])


@merge_method("multi-slerp", "Spherical mean")
def multi_slerp(stack: Stack) -> Lora:
    """The mean of the ΔW_i on the sphere, taken in the tangent space at their linear mean.

    With u_i = ΔW_i / ‖ΔW_i‖, weights made to sum to 1, m the direction of Σ w_i u_i and
    τ = Σ w_i (u_i - <u_i, m> m): ΔW = Σ w_i ‖ΔW_i‖ · (cos‖τ‖ m + sin‖τ‖ τ/‖τ‖). As mergekit's
    `multislerp` (https://goddard.blog/posts/multislerp-wow-what-a-cool-idea).
    """
    total = _total(stack.weights)
    products = gram(stack.loras)
    norms = products.diagonal().clamp(min=0).sqrt()
    present = norms > _TINY
    if len(stack.loras) == 1 or not bool(present.any()):
        return linear(stack)
    weights = torch.tensor(stack.weights, dtype=torch.float64) / total
    # Vectors are given by their coefficients over the u_i; `cosines` are the products of those.
    scale = torch.where(present, norms, 1.0)
    cosines = products / scale[:, None] / scale[None, :]
    mean = torch.where(present, weights, 0.0)
    length = _length(mean, cosines)
    if length < 1e-8:
        raise OnepassError(
            f"{stack.module}: the weighted directions cancel out, so they have no spherical mean; "
            "choose other weights or linear"
        )
    mean = mean / length
    tangent = torch.where(present, weights, 0.0)
    tangent = tangent - (weights * (cosines @ mean)).sum() * mean
    size = _length(tangent, cosines)
    bend = math.sin(size) / size if size > _TINY else 1.0
    result = (mean * math.cos(size) + tangent * bend) * float((weights * norms).sum())
    return weighted_sum(stack.loras, (result / scale).tolist())


@merge_method("model-stock", "Model stock")
def model_stock(stack: Stack) -> Lora:
    """The mean of the ΔW_i, drawn towards the base the more they disagree (arXiv 2403.19522).

    ΔW = t Σ w_i ΔW_i, t = N cos θ / (1 + (N-1) cos θ) with the mean cosine of two of the N that are
    not zero, as in mergekit; but within 0 and 1, as beyond there is nothing to draw towards.
    """
    products = gram(stack.loras)
    norms = products.diagonal().clamp(min=0).sqrt()
    present = (norms > _TINY).nonzero().flatten()
    count = len(present)
    if count < 2:
        return linear(stack)
    cosines = (products / norms[:, None] / norms[None, :])[present][:, present]
    pairs = torch.triu_indices(count, count, offset=1)
    cosine = float(cosines[pairs[0], pairs[1]].clamp(-1, 1).mean())
    t = count * cosine / (1 + (count - 1) * cosine) if cosine > 0 else 0.0
    return weighted_sum(stack.loras, [t * weight for weight in stack.weights])


def _total(weights: tuple[float, ...]) -> float:
    total = sum(weights)
    if abs(total) < _TINY:
        raise OnepassError(
            f"weights {list(weights)} sum to 0, so they say nothing of a point between adapters; "
            "choose others"
        )
    return total


def _length(coefficients: Tensor, products: Tensor) -> float:
    return float((coefficients @ products @ coefficients).clamp(min=0).sqrt())
