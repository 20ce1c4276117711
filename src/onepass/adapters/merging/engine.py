"""Merging adapters: from several to one, by any registered merge."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from onepass.adapters.activation import common_invocation
from onepass.adapters.adapter import load_adapter
from onepass.adapters.lora import Adapter, Lora, projection
from onepass.adapters.lowrank import Truncated, compress
from onepass.adapters.merging.dense import truncate
from onepass.adapters.merging.pico import calibrated, restored
from onepass.adapters.merging.stack import MERGES, Change, Stack, check_count
from onepass.adapters.naming import compare_bases, warn_unknown
from onepass.adapters.shape import aligned, some
from onepass.core.errors import OnepassError
from onepass.core.registry import unknown

Weight = float | Mapping[str, float]
"""A weight for all modules, or one by part of the module's path ("q_proj", "layers.3"); the longest
part that fits counts, and "*" stands for all others (without it they get the default)."""

# Squares of entries have to fit into float32 too.
_LARGEST = 1e18


def merge(
    adapters: Sequence[Adapter | Path | str],
    method: str = "linear",
    weights: Sequence[Weight] | None = None,
    *,
    rank: int | None = None,
    seed: int = 0,
    force: bool = False,
    pico: bool = False,
    **options: Any,
) -> Adapter:
    """Merge adapters of one base into one adapter with scaling 1.

    adapters: loaded ones, folders in PEFT's format, or names on the hub.
    Ranks, alphas and target modules may differ: a module that an adapter lacks is unchanged by it.
    So may the prefixes of names; the result has those of the first adapter.

    weights: one per adapter; by default 1/N each, or 1 for methods that average by themselves.
    rank: of the result. By default exact results keep the rank they have (up to the sum of ranks);
        dense ones get the largest rank of their inputs. The card states the error of a truncation,
        relative to the exact result (Frobenius norm).
    pico: first scale down the output directions that the adapters share, and afterwards restore
        the norm (arXiv 2604.16826; see `pico`).
    force: merge although the adapters are of different bases or task types, or share no module.
    options: those of the method; see `docs/methods.md`.

    Raises:
        OnepassError: an unknown method or option; adapters that `check_mergeable` refuses; a count
            of weights that differs; a rank that no module can have.
    """
    found = MERGES.get(method)
    found.check_options(options)
    if not isinstance(pico, bool):
        raise OnepassError(f"pico is {pico!r}; it must be true or false")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise OnepassError(f"seed is {seed!r}; it must be a whole number from 0 to 2^63 - 1")
    loaded = aligned(a if isinstance(a, Adapter) else load_adapter(a) for a in adapters)
    if not loaded:
        raise OnepassError("a merge of no adapters; give at least one")
    share = 1 / len(loaded) if found.shares else 1.0
    if weights is None:
        weights = [share] * len(loaded)
    stacks = _stacks(loaded, weights, share, seed, force)
    _check_rank(rank, stacks)
    modules: dict[str, Lora] = {}
    truncated: list[Truncated] = []
    given = [calibrated(stack) for stack in stacks] if pico else stacks
    results = iter(found.merge(given, **options))
    for stack in stacks:
        # By `next`: zip would hold on to a dense result until it has the one after.
        change = restored(next(results), stack.loras) if pico else next(results)
        lora = _of_rank(change, rank, stack, truncated)
        del change
        if lora.rank:
            modules[stack.module] = lora
    missed, size = sum(each.missed for each in truncated), sum(each.size for each in truncated)
    names = [adapter.name for adapter in loaded]
    card = {
        "method": method,
        "adapters": names,
        "weights": [dict(w) if isinstance(w, Mapping) else float(w) for w in weights],
        "options": {**found.options, **options},
        "seed": seed,
        "pico": pico,
        "rank": rank,
        "truncation_error": math.sqrt(missed / size) if size else 0.0,
    }
    return Adapter(
        name=f"{method}({', '.join(names)})",
        modules=modules,
        base=next((adapter.base for adapter in loaded if adapter.base), None),
        card=card,
        task_type=next((adapter.task_type for adapter in loaded if adapter.task_type), None),
        invocation=common_invocation(loaded),
    )


def _of_rank(result: Change, rank: int | None, stack: Stack, truncated: list[Truncated]) -> Lora:
    most = min(stack.shape)
    if isinstance(result, Lora):
        if rank is None or not result.rank:
            return result  # nothing is lost, so its size is of no interest
        found = compress(result, min(rank, most))
    else:
        wanted = max(lora.rank for lora in stack.loras) if rank is None else rank
        found = truncate(result, min(wanted, most), stack.seed)
    truncated.append(found)
    return found.lora


def _stacks(
    adapters: Sequence[Adapter],
    weights: Sequence[Weight],
    default: float,
    seed: int,
    force: bool,
) -> list[Stack]:
    if isinstance(weights, int | float | str) or len(weights) != len(adapters):
        raise OnepassError(
            f"{len(adapters)} adapters and weights {weights!r}; give one weight per adapter"
        )
    check_mergeable(adapters, force=force)
    _check_weights(weights, adapters)
    names = tuple(adapter.name for adapter in adapters)
    stacks = []
    for module in dict.fromkeys(module for adapter in adapters for module in adapter.modules):
        own = [adapter.modules.get(module) for adapter in adapters]
        model = next(lora for lora in own if lora is not None)
        loras = tuple(_nothing(model) if lora is None else lora for lora in own)
        found = tuple(_weight(weight, module, default) for weight in weights)
        _check_size(module, adapters, loras, found)
        stacks.append(Stack(module, names, loras, found, seed))
    if not stacks:
        raise OnepassError("the adapters change no module; there is nothing to merge")
    return stacks


def _check_weights(weights: Sequence[Weight], adapters: Sequence[Adapter]) -> None:
    """Refuse a part of a path that fits no module: it would be as if it were not there."""
    modules = {module for adapter in adapters for module in adapter.modules}
    for weight in weights:
        for part in weight if isinstance(weight, Mapping) else ():
            if part != "*" and not any(_fits(part, module) for module in modules):
                raise unknown("module to weigh", str(part), sorted({*map(projection, modules)}))


def _fits(part: Any, module: str) -> bool:
    return f".{part}." in f".{module}."


def _check_size(
    module: str, adapters: Sequence[Adapter], loras: Sequence[Lora], weights: Sequence[float]
) -> None:
    """Refuse what would overflow on the way; NaN and Inf are refused when a file is read."""
    for adapter, lora, weight in zip(adapters, loras, weights, strict=True):
        up, down = (
            float(torch.linalg.vector_norm(factor, dtype=torch.float64))
            for factor in (lora.up, lora.down)
        )
        bound = up * down * max(abs(weight), 1)
        if bound > _LARGEST:
            raise OnepassError(
                f"adapter {adapter.name!r}, {module}: with weight {weight:g} its change is as "
                f"large as {bound:.3g}, too large for float32; it is broken, or the weight is"
            )


def _nothing(model: Lora) -> Lora:
    """A change of rank 0, of the same shape and dtype."""
    return Lora(model.down[:0], model.up[:, :0])


def _weight(weight: Weight, module: str, default: float) -> float:
    if not isinstance(weight, Mapping):
        return _finite(weight, weight)
    fitting = [part for part in weight if part != "*" and _fits(part, module)]
    best = max(fitting, key=lambda part: len(str(part))) if fitting else "*"
    return _finite(weight.get(best, default), weight)


def _finite(value: Any, shown: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise OnepassError(f"weight {json.dumps(shown, default=str)} is not a finite number")
    return float(value)


def _check_rank(rank: int | None, stacks: Sequence[Stack]) -> None:
    if rank is None:
        return
    check_count("rank", rank)
    widest = max(stacks, key=lambda stack: min(stack.shape))
    most = min(widest.shape)
    if rank > most:
        raise OnepassError(
            f"rank {rank} is not possible: it can be up to {most}, the smaller side of "
            f"{widest.module} {widest.shape} (out, in)"
        )


def _check_same(adapters: Sequence[Adapter]) -> None:
    """Refuse two bases or two task types; what an adapter does not say is no matter."""
    named = [adapter for adapter in adapters if adapter.base]
    for adapter in named[1:]:
        verdict = compare_bases(str(named[0].base), str(adapter.base))
        names = f"adapters {named[0].name!r} and {adapter.name!r}"
        if verdict == "different":
            raise OnepassError(
                f"{names} are for different bases, {named[0].base} and {adapter.base}; merge "
                "adapters of one base, or force it if the two are one model under two names"
            )
        if verdict == "unknown":
            warn_unknown(f"adapter {adapter.name!r}", str(adapter.base), str(named[0].base))
    typed = {adapter.task_type: adapter for adapter in adapters if adapter.task_type}
    if len(typed) > 1:
        found = " and ".join(f"{each.name!r} ({kind})" for kind, each in typed.items())
        raise OnepassError(
            f"adapters {found} are of different task types, that is for different heads; merge "
            "adapters of one type, or force it to get an adapter of the first"
        )


def _check_overlap(adapters: Sequence[Adapter]) -> None:
    """Refuse an adapter that shares no module with any other; they are hardly of one model."""
    counts = Counter(module for adapter in adapters for module in adapter.modules)
    for adapter in adapters:
        if len(adapters) > 1 and all(counts[module] == 1 for module in adapter.modules):
            other = next(each for each in adapters if each is not adapter)
            raise OnepassError(
                f"adapters {adapter.name!r} and {other.name!r} share no module: "
                f"{some(adapter.modules)}; and {some(other.modules)}. Are they of one base? Force "
                "it if they are meant to change different layers"
            )


def check_mergeable(adapters: Sequence[Adapter], *, force: bool = False) -> None:
    """Refuse adapters that cannot be of one base: by name, by layers, or by the layers' shapes.

    force: refuse different shapes only, which no merge can take.
    """
    adapters = aligned(adapters)
    shapes: dict[str, tuple[Adapter, tuple[int, int]]] = {}
    if not force:
        _check_same(adapters)
        _check_overlap(adapters)
    for adapter in adapters:
        for module, lora in adapter.modules.items():
            first, shape = shapes.setdefault(module, (adapter, lora.shape))
            if shape != lora.shape:
                raise OnepassError(
                    f"adapters {first.name!r} and {adapter.name!r} have different shapes at "
                    f"{module}: {shape} and {lora.shape} (out, in); merge adapters of one base"
                )
