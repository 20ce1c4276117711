"""Small random adapters, calibrations and bases for the tests of `onepass.adapters`."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.calibration import Calibration, Form
from onepass.adapters.shape import BaseShape

TINY = {"self_attn.q_proj": (8, 8), "self_attn.v_proj": (4, 8), "mlp.down_proj": (8, 12)}


def small_base(layers: int = 2, name: str = "org/small") -> BaseShape:
    return BaseShape(
        name, {f"model.layers.{i}.{path}": s for i in range(layers) for path, s in TINY.items()}
    )


def random_lora(shape: tuple[int, int], rank: int, random: torch.Generator) -> Lora:
    out, in_ = shape
    return Lora(torch.randn(rank, in_, generator=random), torch.randn(out, rank, generator=random))


def random_adapter(
    seed: int,
    rank: int = 3,
    base: BaseShape | None = None,
    name: str = "",
    ranks: Mapping[str, int] | None = None,
) -> Adapter:
    random = torch.Generator().manual_seed(seed)
    base = base or small_base()
    modules = {
        module: random_lora(shape, (ranks or {}).get(module, rank), random)
        for module, shape in base.modules.items()
    }
    return Adapter(name or f"adapter-{seed}", modules, base.name, {"seed": seed})


def random_calibration(
    form: Form, seed: int = 0, rank: int = 2, base: BaseShape | None = None
) -> Calibration:
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, dict[str, Tensor]] = {}
    for kind, (out, in_) in (base or small_base()).projections().items():
        lora = random_lora((out, in_), rank, random)
        tensors[kind] = (
            {"down": lora.down, "up": lora.up} if form == "lowrank" else {"bias": lora.up[:, 0]}
        )
    return Calibration("lc++" if form == "lowrank" else "lc", form, tensors)


def dense_sum(loras: Sequence[Lora], weights: Sequence[float]) -> Tensor:
    """The oracle: Σ w · up @ down, in float64."""
    return torch.stack(
        [w * (x.up.double() @ x.down.double()) for x, w in zip(loras, weights, strict=True)]
    ).sum(0)


def same_numbers(one: Adapter, other: Adapter) -> bool:
    """Whether two adapters have the same modules with the same factors to the bit."""
    return one.modules.keys() == other.modules.keys() and all(
        same_tensor(lora.down, other.modules[m].down) and same_tensor(lora.up, other.modules[m].up)
        for m, lora in one.modules.items()
    )


def same_tensor(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
