"""Merging adapters by fixed weights. Each merge is a pure function to a new Adapter.

`weights` default to 1/N each, as in the frozen merge under a calibration (arXiv 2507.16083).
"""

from collections.abc import Callable, Sequence

import torch

from onepass.adapters.adapter import Adapter, Lora, same_base
from onepass.adapters.lowrank import check_summable, weighted_sum, wide_dtype
from onepass.core.errors import OnepassError

Weights = Sequence[float] | None


def merge_linear(adapters: Sequence[Adapter], weights: Weights = None) -> Adapter:
    """ΔW = Σ w_i ΔW_i, exactly; rank Σ r_i."""
    return _merge("linear", adapters, weights, weighted_sum)


def merge_concat(adapters: Sequence[Adapter], weights: Weights = None) -> Adapter:
    """PEFT's `cat`: factors side by side, the weights on the rows of `down`; rank Σ r_i.

    ΔW is that of `merge_linear`; the factors differ, which matters to a training that goes on
    from them.
    """
    return _merge("concat", adapters, weights, _cat)


def merge_peft_linear(adapters: Sequence[Adapter], weights: Weights = None) -> Adapter:
    """PEFT's `linear`: down = Σ sgn(w_i) √|w_i| down_i, up = Σ √|w_i| up_i; one rank for all.

    Not linear in ΔW: the product holds the cross terms up_i down_j of one adapter with another
    (peft `LoraModel.add_weighted_adapter`). Equal to PEFT's where the adapters have one scaling;
    with several, PEFT's cross terms weigh differently.
    """
    return _merge("peft-linear", adapters, weights, _add_factors)


def _cat(loras: Sequence[Lora], weights: Sequence[float]) -> Lora:
    dtype = wide_dtype(loras)
    down = [lora.down.to(dtype) * w for lora, w in zip(loras, weights, strict=True)]
    return Lora(torch.cat(down), torch.cat([lora.up.to(dtype) for lora in loras], dim=1))


def _add_factors(loras: Sequence[Lora], weights: Sequence[float]) -> Lora:
    ranks = sorted({lora.rank for lora in loras})
    if len(ranks) > 1:
        raise OnepassError(
            f"peft-linear adds factors, so it needs one rank, found {ranks}; use linear instead"
        )
    dtype = wide_dtype(loras)
    down = torch.zeros_like(loras[0].down, dtype=dtype)
    up = torch.zeros_like(loras[0].up, dtype=dtype)
    for lora, weight in zip(loras, weights, strict=True):
        root = abs(weight) ** 0.5
        down = down + lora.down.to(dtype) * (root if weight >= 0 else -root)
        up = up + lora.up.to(dtype) * root
    return Lora(down, up)


def _merge(
    method: str,
    adapters: Sequence[Adapter],
    weights: Weights,
    combine: Callable[[Sequence[Lora], Sequence[float]], Lora],
) -> Adapter:
    if not adapters:
        raise OnepassError(f"{method} merge of no adapters; give at least one")
    if weights is None:
        weights = [1.0 / len(adapters)] * len(adapters)
    check_mergeable(adapters)
    modules: dict[str, Lora] = {}
    for module in adapters[0].modules:
        loras = [adapter.modules[module] for adapter in adapters]
        check_summable(loras, weights)
        modules[module] = combine(loras, weights)
    names = [adapter.name for adapter in adapters]
    return Adapter(
        name=f"{method}({', '.join(names)})",
        modules=modules,
        base=next((adapter.base for adapter in adapters if adapter.base), None),
        card={"method": method, "adapters": names, "weights": [float(w) for w in weights]},
    )


def check_mergeable(adapters: Sequence[Adapter]) -> None:
    """Refuse adapters of different bases, modules or layer shapes, naming the two that differ."""
    first = adapters[0]
    for other in adapters[1:]:
        pair = f"adapters {first.name!r} and {other.name!r}"
        if first.base and other.base and not same_base(first.base, other.base):
            raise OnepassError(
                f"{pair} are for different bases, {first.base} and {other.base}; "
                "merge adapters of one base"
            )
        odd = sorted(first.modules.keys() ^ other.modules.keys())
        if odd:
            has, lacks = (first, other) if odd[0] in first.modules else (other, first)
            raise OnepassError(
                f"{pair} change different modules: {has.name!r} has {odd[0]}, "
                f"{lacks.name!r} has not ({len(odd)} differ); train both with the same targets"
            )
        for module, lora in first.modules.items():
            if lora.shape != other.modules[module].shape:
                raise OnepassError(
                    f"{pair} have different shapes at {module}: {lora.shape} and "
                    f"{other.modules[module].shape} (out, in); merge adapters of one base"
                )
