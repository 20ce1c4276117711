"""Calibrations of the adapters' own factors: core, lc-gain and cat (docs/calibration.md).

In one module, put the factors of a pass's adapters side by side: down = [A_1; ..; A_N] (R, in)
and up = [B_1 .. B_N] (out, R), R = Σ r_i. The linear merge is up diag(w) down. These calibrations
add to `up` and leave `down` as it is, so that a calibrated merge is a LoRA of rank R, as the merge:

    core     up M_t              "core" (R, R): what one component reads, another may write
    lc-gain  diag(g_t) up diag(w)    "gain" (out,), beside a "bias" (out,)
    cat      up diag(c_l)        "weights" (L, N): a row per layer, a column per adapter

A LoRA is the same whatever length its components' factors have, as long as their product stays:
saving in 16 bits changes it (`lowrank.balanced`), and so do other tools. A core mixes components,
so it acts on factors of equal norms, ‖A_j‖ = ‖B_j‖, which are the same for all these files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onepass.adapters.calibration import Calibration, Form
from onepass.adapters.lora import Adapter, Lora, natural_order
from onepass.adapters.lowrank import unpadded, wide_dtype
from onepass.core.errors import OnepassError


@dataclass(frozen=True, eq=False)
class Factors:
    """The adapters' factors in one module, side by side, each component with equal norms.

    down: (R, in) and up: (out, R), float32 or wider. weight: (R,), of each component in the linear
    merge. adapter: (R,), the number of the adapter it is of. place: (R,), its row and column in a
    core. layer: the number of the module among those of its projection type.
    """

    down: Tensor
    up: Tensor
    weight: Tensor
    adapter: Tensor
    place: Tensor
    layer: int

    def merge(self) -> Tensor:
        """The `up` (out, R) of the linear merge."""
        return self.up * self.weight

    def to(self, device: torch.device) -> "Factors":
        return Factors(
            self.down.to(device),
            self.up.to(device),
            self.weight.to(device),
            self.adapter.to(device),
            self.place.to(device),
            self.layer,
        )


def factors_by_module(
    adapters: Sequence[Adapter], weights: Sequence[float], types: Mapping[str, str]
) -> dict[str, Factors]:
    """The factors in each module of `types`, which has the projection type of each.

    An adapter that lacks a module has no components there.
    """
    ranks, layers = ranks_by_type(adapters, types), layer_numbers(types)
    found = {}
    for module, type_ in types.items():
        having = [number for number, each in enumerate(adapters) if module in each.modules]
        loras = [_equal_norms(unpadded(adapters[number].modules[module])) for number in having]
        sizes = torch.tensor([lora.rank for lora in loras])
        starts = torch.tensor([sum(ranks[type_][:number]) for number in having])
        within = torch.cat([torch.arange(lora.rank) for lora in loras])
        dtype = wide_dtype(loras)
        found[module] = Factors(
            down=torch.cat([lora.down.to(dtype) for lora in loras]),
            up=torch.cat([lora.up.to(dtype) for lora in loras], 1),
            weight=torch.tensor([weights[n] for n in having], dtype=dtype).repeat_interleave(sizes),
            adapter=torch.tensor(having).repeat_interleave(sizes),
            place=starts.repeat_interleave(sizes) + within,
            layer=layers[module],
        )
    return found


def _equal_norms(lora: Lora) -> Lora:
    """The same ΔW, each component with ‖A_j‖ = ‖B_j‖; one that is zero stays as it is."""
    down, up = (factor.detach().to(wide_dtype([lora])) for factor in (lora.down, lora.up))
    ratio = (down.norm(dim=1) / up.norm(dim=0)).sqrt()
    ratio = torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
    return Lora(down / ratio[:, None], up * ratio)


def added_up(form: Form, parts: Mapping[str, Tensor], factors: Factors) -> Tensor:
    """What a calibration adds to `up`, (out, R); differentiable in `parts`, its tensors."""
    up = factors.up
    if form == "core":
        core: Tensor = parts["core"].to(up)
        return up @ core[factors.place][:, factors.place]
    if form == "gain":
        return parts["gain"].to(up)[:, None] * factors.merge()
    return up * parts["weights"].to(up)[factors.layer][factors.adapter]


def ranks_by_type(
    adapters: Sequence[Adapter], types: Mapping[str, str], alike: bool = False
) -> dict[str, list[int]]:
    """By projection type, the rank that each adapter has there; 0 where it has no such module.

    Of different ranks in one type the largest, or, if they must be `alike`, an `OnepassError`.
    """
    found = {type_: [0] * len(adapters) for type_ in types.values()}
    for number, adapter in enumerate(adapters):
        for module, type_ in types.items():
            if module not in adapter.modules:
                continue
            rank, known = unpadded(adapter.modules[module]).rank, found[type_][number]
            if alike and known not in (0, rank):
                raise OnepassError(
                    f"adapter {adapter.name!r} has rank {known} in some {type_} and {rank} in "
                    f"{module}; a core is one matrix for all layers and needs one rank there, "
                    "so calibrate with lc++"
                )
            found[type_][number] = max(rank, known)
    return found


def layer_numbers(types: Mapping[str, str]) -> dict[str, int]:
    """The number of each module among those of its projection type, from the first layer on."""
    counts: dict[str, int] = {}
    numbers = {}
    for module in sorted(types, key=natural_order):
        numbers[module] = counts.get(types[module], 0)
        counts[types[module]] = numbers[module] + 1
    return numbers


def factor_shapes(
    form: Form, adapters: Sequence[Adapter], types: Mapping[str, str]
) -> dict[str, tuple[int, ...]]:
    """By projection type, the shape of a core, or of the weights of cat, for these adapters."""
    if form == "core":
        ranks = ranks_by_type(adapters, types, alike=True)
        return {type_: (sum(each), sum(each)) for type_, each in ranks.items()}
    return {type_: (list(types.values()).count(type_), len(adapters)) for type_ in types.values()}


def check_factors(
    calibration: Calibration, adapters: Sequence[Adapter], types: Mapping[str, str]
) -> None:
    """Refuse a core, or weights of cat, for adapters of other ranks, layers or number."""
    if not adapters:
        raise OnepassError(
            f"a {calibration.kind} calibration acts on the adapters of its pass, which has none"
        )
    if calibration.form == "gain":
        return
    name = "core" if calibration.form == "core" else "weights"
    for type_, wanted in factor_shapes(calibration.form, adapters, types).items():
        shape = tuple(calibration.tensors[type_][name].shape)
        if shape != wanted:
            ranks = ", ".join(map(str, ranks_by_type(adapters, types)[type_]))
            raise OnepassError(
                f"{calibration.kind} calibration of {type_}: {name} {shape} was made for other "
                f"adapters; for those of this pass, of rank {ranks}, it would be {wanted}"
            )
