"""Every merge against a brute-force one on dense matrices, written from its paper's definition.

Ranks are such that nothing is truncated, and all is in float64.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adapter_kit import random_adapter
from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.merging import merge
from onepass.adapters.merging.sparsify import Entries, largest

RANK = 3
Dense = list[Tensor]
"""One matrix per adapter."""


def adapters_of(count: int, seed: int = 0) -> list[Adapter]:
    found = []
    for number in range(count):
        adapter = random_adapter(100 * seed + number, RANK)
        exact = {m: Lora(x.down.double(), x.up.double()) for m, x in adapter.modules.items()}
        found.append(Adapter(adapter.name, exact, adapter.base))
    return found


def deltas(adapters: Sequence[Adapter], module: str) -> Dense:
    return [adapter.modules[module].delta() for adapter in adapters]


def top(matrix: Tensor, share: float) -> Tensor:
    kept = matrix.abs().flatten().sort(descending=True).values[int(share * matrix.numel()) - 1]
    return torch.where(matrix.abs() >= kept, matrix, 0.0)


def elect(dense: Dense, weights: Sequence[float]) -> Tensor:
    """TIES' disjoint mean, entry by entry."""
    merged = torch.zeros_like(dense[0])
    for place in torch.cartesian_prod(*(torch.arange(n) for n in merged.shape)):
        i, j = int(place[0]), int(place[1])
        values = [float(matrix[i, j]) for matrix in dense]
        sign = math.copysign(1, sum(values)) if sum(values) else 0
        agreeing = [w * v for v, w in zip(values, weights, strict=True) if v * sign > 0]
        merged[i, j] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return merged


def elect_mergekit(dense: Dense, weights: Sequence[float]) -> Tensor:
    scaled = torch.stack([w * matrix for matrix, w in zip(dense, weights, strict=True)])
    sign = torch.where(scaled.sum(0) >= 0, 1.0, -1.0)
    agrees = (scaled.sign() == sign).double()
    share = (agrees * torch.tensor(weights).double()[:, None, None]).sum(0)
    return (scaled * agrees).sum(0) / torch.where(share == 0, 1.0, share)


def add(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum(0)


def svd(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :count], s[:count], vt[:count]


def polar(matrix: Tensor) -> Tensor:
    """The nearest orthonormal matrix, by its definition X (XᵀX)^(-1/2)."""
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    root: Tensor = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    return matrix @ root


def ties_of_module(dense: Dense, weights: Sequence[float], share: float) -> Tensor:
    return elect([top(matrix, share) for matrix in dense], weights)


def ties_mergekit(dense: Dense, weights: Sequence[float], share: float) -> Tensor:
    return elect_mergekit([top(matrix, share) for matrix in dense], weights)


def magnitude(dense: Dense, weights: Sequence[float], share: float) -> Tensor:
    return add(w * top(m, share) for m, w in zip(dense, weights, strict=True))


def breadcrumbs(dense: Dense, weights: Sequence[float], share: float, gamma: float) -> Tensor:
    merged = torch.zeros_like(dense[0])
    for matrix, weight in zip(dense, weights, strict=True):
        order = matrix.abs().flatten().argsort(descending=True)
        first, last = int(gamma * order.numel()), int(share * order.numel())
        kept = order[first : first + last]
        merged.view(-1)[kept] += weight * matrix.flatten()[kept]
    return merged


def slerp(dense: Dense, weights: Sequence[float]) -> Tensor:
    a, b = dense
    t = weights[1] / sum(weights)
    angle = torch.arccos((a * b).sum() / (a.norm() * b.norm()))
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def multi_slerp(dense: Dense, weights: Sequence[float]) -> Tensor:
    shares = [w / sum(weights) for w in weights]
    units = [matrix / matrix.norm() for matrix in dense]
    mean = add(w * u for w, u in zip(shares, units, strict=True))
    mean = mean / mean.norm()
    pairs = zip(shares, units, strict=True)
    tangent = add(w * (u - (u * mean).sum() * mean) for w, u in pairs)
    size = tangent.norm()
    norm = sum(w * float(matrix.norm()) for w, matrix in zip(shares, dense, strict=True))
    direction: Tensor = mean * torch.cos(size) + tangent * torch.sin(size) / size
    return norm * direction


def model_stock(dense: Dense, weights: Sequence[float]) -> Tensor:
    count = len(dense)
    cosines = [
        float((dense[i] * dense[j]).sum() / (dense[i].norm() * dense[j].norm()))
        for i in range(count)
        for j in range(i)
    ]
    cosine = sum(cosines) / len(cosines)
    t = max(count * cosine / (1 + (count - 1) * cosine), 0.0)
    return t * add(w * m for m, w in zip(dense, weights, strict=True))


def tsv(dense: Dense, weights: Sequence[float]) -> Tensor:
    parts = [svd(matrix, RANK) for matrix in dense]
    left = polar(torch.cat([u for u, _, _ in parts], 1))
    right = polar(torch.cat([vt.T for _, _, vt in parts], 1))
    values = torch.cat([w * s for (_, s, _), w in zip(parts, weights, strict=True)])
    return left @ torch.diag(values) @ right.T


def iso_c(dense: Dense, weights: Sequence[float]) -> Tensor:
    total = add(w * m for m, w in zip(dense, weights, strict=True))
    u, s, vt = svd(total, RANK * len(dense))
    return s.mean() * u @ vt


def iso_cts(dense: Dense, weights: Sequence[float], common: float) -> Tensor:
    total = add(w * m for m, w in zip(dense, weights, strict=True))
    rank = RANK * len(dense)
    kept = round(common * rank)
    u, s, vt = svd(total, kept)
    own = (rank - kept) // len(dense)
    parts = [svd(w * (m - u @ u.T @ m), own) for m, w in zip(dense, weights, strict=True)]
    left = polar(torch.cat([u, *(part[0] for part in parts)], 1))
    right = polar(torch.cat([vt.T, *(part[2].T for part in parts)], 1))
    return torch.cat([s, *(part[1] for part in parts)]).mean() * left @ right.T


def knots(dense: Dense, weights: Sequence[float], share: float) -> Tensor:
    u, s, vt = svd(torch.cat(dense, 1), RANK * len(dense))
    rows = torch.split(torch.diag(s) @ vt, dense[0].shape[1], 1)
    return u @ elect([top(each, share) for each in rows], weights)


Oracle = Callable[[Dense, Sequence[float]], Tensor]
CASES: dict[str, tuple[str, dict[str, Any], Oracle]] = {
    "ties by module": (
        "ties", {"variant": "peft", "density": 0.3}, partial(ties_of_module, share=0.3),
    ),
    "ties of mergekit": (
        "ties", {"variant": "mergekit", "density": 0.3}, partial(ties_mergekit, share=0.3),
    ),
    "magnitude-prune": ("magnitude-prune", {"density": 0.4}, partial(magnitude, share=0.4)),
    "breadcrumbs": (
        "breadcrumbs", {"density": 0.6, "gamma": 0.1}, partial(breadcrumbs, share=0.6, gamma=0.1),
    ),
    "slerp": ("slerp", {}, slerp),
    "multi-slerp": ("multi-slerp", {}, multi_slerp),
    "model-stock": ("model-stock", {}, model_stock),
    "tsv": ("tsv", {}, tsv),
    "iso-c": ("iso-c", {}, iso_c),
    "iso-cts": ("iso-cts", {"common": 0.5}, partial(iso_cts, common=0.5)),
    "knots": ("knots", {"density": 0.3}, partial(knots, share=0.3)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_merge_is_what_its_definition_says(case: str, seed: int) -> None:
    method, options, oracle = CASES[case]
    # Three adapters of rank 3 would fill the 8 rows of these layers, which tests less.
    adapters, weights = adapters_of(2, seed), [0.75, 0.5]
    merged = merge(adapters, method, weights, rank=None if "knots" in case else 8, **options)
    for module, lora in merged.modules.items():
        if min(lora.shape) < 2 * RANK and case in ("tsv", "iso-c", "iso-cts"):
            continue  # the stacked singular vectors cannot be orthonormal there
        expected = oracle(deltas(adapters, module), weights)
        assert torch.allclose(lora.delta(), expected, atol=1e-5), module


@pytest.mark.parametrize("count", [1, 2, 4])
def test_ties_of_the_paper_trims_all_modules_together(count: int) -> None:
    adapters, weights = adapters_of(count), [1.0, 0.5, 2.0, 1.0][:count]
    merged = merge(adapters, "ties", weights, density=0.25, rank=8)
    floors = []
    for adapter in adapters:
        sizes = torch.cat([x.delta().abs().flatten() for x in adapter.modules.values()])
        floors.append(sizes.sort(descending=True).values[int(0.25 * sizes.numel()) - 1])
    for module, lora in merged.modules.items():
        pairs = zip(deltas(adapters, module), floors, strict=True)
        trimmed = [torch.where(matrix.abs() >= floor, matrix, 0.0) for matrix, floor in pairs]
        assert torch.allclose(lora.delta(), elect(trimmed, weights), atol=1e-5)


@pytest.mark.parametrize("method", ["ties", "magnitude-prune"])
def test_core_space_merges_the_coordinates_in_the_shared_bases(method: str) -> None:
    adapters, weights = adapters_of(2), [1.0, 0.5]
    merged = merge(adapters, method, weights, density=0.5, space="core")
    rule = ties_of_module if method == "ties" else magnitude
    for module, lora in merged.modules.items():
        left = svd(torch.cat([a.modules[module].up for a in adapters], 1), 2 * RANK)[0]
        right = svd(torch.cat([a.modules[module].down for a in adapters]), 2 * RANK)[2]
        cores = [left.T @ matrix @ right.T for matrix in deltas(adapters, module)]
        expected = left @ rule(cores, weights, 0.5) @ right
        assert torch.allclose(lora.delta(), expected, atol=1e-5)


@pytest.mark.parametrize("rule", ["linear", "ties"])
def test_compress_then_merge_merges_in_the_tucker_bases(rule: str) -> None:
    """The oracle works on the dense ΔW: HOSVD, then HOOI."""
    adapters, weights = adapters_of(3), [1.0, 0.5, 2.0]
    merged = merge(adapters, "ctm", weights, rule=rule, density=0.5, beta=0.25)
    for module, lora in merged.modules.items():
        assert lora.rank == RANK
        dense = deltas(adapters, module)
        mean = add(matrix.norm() for matrix in dense) / len(dense)
        scaled = [m * (0.25 * m.norm() + 0.75 * mean) / m.norm() for m in dense]
        v = svd(torch.cat(scaled), RANK)[2].T
        u = svd(torch.cat([m @ v for m in scaled], 1), RANK)[0]
        first = float(add((u.T @ m @ v).square().sum() for m in scaled))
        for _ in range(20):
            v = svd(torch.cat([u.T @ m for m in scaled]), RANK)[2].T
            u = svd(torch.cat([m @ v for m in scaled], 1), RANK)[0]
        assert float(add((u.T @ m @ v).square().sum() for m in scaled)) >= first
        coordinates = [u.T @ m @ v for m in dense]
        if rule == "ties":
            expected = u @ ties_of_module(coordinates, weights, 0.5) @ v.T
        else:
            pairs = zip(coordinates, weights, strict=True)
            expected = u @ add(w * c for c, w in pairs) @ v.T
        assert torch.allclose(lora.delta(), expected, atol=1e-5)


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_pico_scales_shared_output_directions_down_and_restores_the_norm(method: str) -> None:
    adapters, weights = adapters_of(3), [1 / 3] * 3
    merged = merge(adapters, method, weights, rank=8, pico=True)
    shrunk = []
    for adapter in adapters:
        modules = {}
        for module, lora in adapter.modules.items():
            u, s, _ = svd(torch.cat([a.modules[module].up for a in adapters], 1), 9)
            alpha = 1 / (1 + 2 * s.square() / s.square().sum())
            shift = torch.eye(len(u)).double() + u @ torch.diag(alpha - 1) @ u.T
            modules[module] = Lora(lora.down, shift @ lora.up)
        shrunk.append(Adapter(adapter.name, modules, adapter.base))
    before = merge(shrunk, method, weights, rank=8)
    for module, lora in merged.modules.items():
        size = add(matrix.norm() for matrix in deltas(adapters, module)) / 3
        expected = before.modules[module].delta()
        assert torch.allclose(lora.delta(), expected * size / expected.norm(), atol=1e-5)
    assert merged.card["pico"] is True


@pytest.mark.parametrize("method", ["dare", "della"])
def test_random_dropping_keeps_the_expected_share_and_the_mean(method: str) -> None:
    """Of one adapter: entries are dropped, or divided by the probability to be kept."""
    (adapter,) = adapters_of(1)
    options: dict[str, Any] = {"density": 0.6, **({"epsilon": 0.2} if method == "della" else {})}
    total: dict[str, Tensor] = {m: torch.zeros(x.shape) for m, x in adapter.modules.items()}
    kept, count = 0.0, 300
    for seed in range(count):
        merged = merge([adapter], method, [1.0], rank=8, seed=seed, **options)
        for module, lora in merged.modules.items():
            total[module] = total[module] + lora.delta() / count
            kept += float((lora.delta().abs() > 1e-9).double().mean()) / count / len(total)
    assert kept == pytest.approx(0.6, abs=0.01)
    for module, mean in total.items():
        original = adapter.modules[module].delta()
        assert float((mean - original).norm() / original.norm()) < 0.1


def test_della_keeps_large_entries_more_often() -> None:
    (adapter,) = adapters_of(1)
    module, lora = next(iter(adapter.modules.items()))
    order = lora.delta().abs().argsort(dim=1)
    kept = torch.zeros(lora.shape)
    for seed in range(400):
        merged = merge([adapter], "della", [1.0], rank=8, seed=seed, density=0.5, epsilon=0.3)
        kept += (merged.modules[module].delta().abs() > 1e-9) / 400
    shares = kept.gather(1, order).mean(0)
    assert torch.allclose(shares, torch.linspace(0.2, 0.8, lora.shape[1]), atol=0.06)


@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([1, 7, 3000, 90_000]),
    share=st.floats(0, 1),
    ties=st.booleans(),
)
@settings(max_examples=40)  # fmt: skip
def test_the_largest_is_found_exactly(seed: int, size: int, share: float, ties: bool) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    values = values.round() if ties else values
    wanted = min(max(int(share * size), 1), size)
    drawn = values[:: 251 if size > 1000 else 1].abs()
    entries = Entries(size, lambda: iter(torch.split(values, 5000)), lambda: drawn)
    found = largest(entries, int(share * size))
    assert found == float(values.abs().sort(descending=True).values[wanted - 1])
