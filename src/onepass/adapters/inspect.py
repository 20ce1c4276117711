"""Figures of adapters, and of how two of them interact, from their weights alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor

from onepass.adapters.lora import Adapter, Lora, layer, projection
from onepass.adapters.lowrank import core_of, gram, norm, rank_of
from onepass.adapters.shape import aligned

# Sign conflicts are counted on this many rows of ΔW, evenly spread: shares need no more.
_ROWS = 256
_ZERO = 1e-6  # of the largest singular value: below that a direction is not used


@dataclass(frozen=True)
class Facts:
    """One adapter. `norms`: the Frobenius norm of ΔW per module, scaling included.

    template: what its prompts were put into, "chat" or "plain"; None if unknown. invocation: the
    token ids from which on it acts; () for one that acts on the whole prompt.
    """

    name: str
    base: str | None
    ranks: tuple[int, ...]
    projections: tuple[str, ...]
    parameters: int
    norms: Mapping[str, float]
    template: str | None = None
    invocation: tuple[int, ...] = ()

    @property
    def total_norm(self) -> float:
        return math.sqrt(sum(value**2 for value in self.norms.values()))


@dataclass(frozen=True)
class Meeting:
    """Two adapters in one module that both change.

    cosine: of the two ΔW as vectors, -1 to 1.
    outputs, inputs: how much of the output (input) directions of the two coincide, 0 to 1: the mean
        squared cosine of the principal angles between the column (row) spaces of the ΔW.
    by_chance: what `outputs` would be for random directions.
    conflict: the share of entries with opposite signs, each weighted by the smaller of the two
        magnitudes; 0.5 for unrelated adapters.
    """

    cosine: float
    outputs: float
    inputs: float
    by_chance: float
    conflict: float


def facts(adapter: Adapter) -> Facts:
    return Facts(
        name=adapter.name,
        base=adapter.base,
        ranks=adapter.ranks,
        projections=tuple(dict.fromkeys(map(projection, adapter.modules))),
        parameters=adapter.parameter_count,
        norms={module: norm(lora) for module, lora in adapter.modules.items()},
        template=adapter.card.get("template"),
        invocation=adapter.invocation,
    )


def meet(one: Adapter, other: Adapter) -> dict[str, Meeting]:
    """How two adapters meet, by module (of `one`); modules that only one changes are left out."""
    one, other = aligned([one, other])
    return {
        module: _meeting(lora, other.modules[module])
        for module, lora in one.modules.items()
        if module in other.modules
    }


def _meeting(one: Lora, other: Lora) -> Meeting:
    products = gram([one, other])
    size = float((products[0, 0] * products[1, 1]).clamp(min=0).sqrt())
    left, right = _directions(one), _directions(other)
    smaller = min(left[0].shape[1], right[0].shape[1])
    larger = max(left[0].shape[1], right[0].shape[1])
    return Meeting(
        cosine=float(products[0, 1]) / size if size else 0.0,
        outputs=_overlap(left[0], right[0]),
        inputs=_overlap(left[1], right[1]),
        by_chance=min(larger / one.shape[0], 1.0) if smaller else 0.0,
        conflict=_conflict(one, other),
    )


def _directions(lora: Lora) -> tuple[Tensor, Tensor]:
    """Orthonormal bases of what ΔW writes (out, k) and reads (in, k), k its numerical rank."""
    left, core, right = core_of(lora)
    u, s, vt = torch.linalg.svd(core, full_matrices=False)
    count = rank_of(s, _ZERO)
    return left @ u[:, :count], (vt[:count] @ right).T


def _overlap(one: Tensor, other: Tensor) -> float:
    """Mean squared cosine of the principal angles between two subspaces; 0 if one is empty."""
    smaller = min(one.shape[1], other.shape[1])
    return float((one.T @ other).square().sum()) / smaller if smaller else 0.0


def _conflict(one: Lora, other: Lora) -> float:
    rows = torch.linspace(0, one.shape[0] - 1, min(_ROWS, one.shape[0])).long()
    a, b = (x.up.detach().float()[rows] @ x.down.detach().float() for x in (one, other))
    smaller = torch.minimum(a.abs(), b.abs())
    total = float(smaller.sum())
    return float(smaller[a * b < 0].sum()) / total if total else 0.0


def hints(one: Facts, other: Facts, meetings: Mapping[str, Meeting]) -> list[str]:
    """What the figures suggest for a merge of the two, in sentences."""
    if not meetings:
        return ["They change different modules, so a merge with weights 1 leaves each as it is."]
    said = []
    cosine = fmean(each.cosine for each in meetings.values())
    outputs = fmean(each.outputs for each in meetings.values())
    chance = fmean(each.by_chance for each in meetings.values())
    strengths = sorted([one, other], key=lambda each: each.total_norm)
    weak, strong = (each.total_norm for each in strengths)
    if not weak:
        names = " and ".join(each.name for each in strengths if not each.total_norm)
        return [f"{names} changes nothing: all its weights are zero. Was it trained?"]
    if strong > 2 * weak:
        said.append(
            f"{strengths[1].name} is {strong / weak:.1f} times as strong as {strengths[0].name} "
            "and will drown it in a merge with equal weights; give it a smaller weight."
        )
    if cosine < -0.05:
        said.append(
            f"They pull in opposite directions (cosine {cosine:.2f}); any weighted sum undoes part "
            "of both."
        )
    elif cosine > 0.3:
        said.append(
            f"They largely agree (cosine {cosine:.2f}); an average (linear, slerp) loses little."
        )
    else:
        said.append(
            f"They are nearly orthogonal (cosine {cosine:.2f}); an average keeps about half of "
            "each, which both tasks feel. A sum (weights 1) keeps each whole."
        )
    if outputs > max(2 * chance, 0.1):
        said.append(
            f"They write to the same places ({100 * outputs:.0f} % of their output directions, "
            f"{100 * chance:.0f} % by chance), so that sums interfere; tsv and knots separate "
            "them, a calibration learns to."
        )
    else:
        said.append("They write to different places; entry-wise merges such as ties gain little.")
    inputs = fmean(each.inputs for each in meetings.values())
    if inputs > 0.4:
        said.append(
            f"They read the same directions ({100 * inputs:.0f} %), as adapters that started from "
            "one seed do; what one looks for in the input sets off the other too."
        )
    return said


def by_layer(meetings: Mapping[str, Meeting], name: str) -> dict[tuple[str, str], float]:
    """A figure by (layer, projection), as for a heat map; the mean where several have one place."""
    values: dict[tuple[str, str], list[float]] = {}
    for module, meeting in meetings.items():
        number = layer(module)
        place = ("" if number is None else str(number), projection(module))
        values.setdefault(place, []).append(getattr(meeting, name))
    return {place: fmean(found) for place, found in values.items()}


def pairs(adapters: Sequence[Adapter]) -> list[tuple[Adapter, Adapter]]:
    return list(combinations(adapters, 2))
