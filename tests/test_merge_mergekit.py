"""mergekit as oracle on ΔW, where definitions coincide; skipped where it is not installed.

It pins an older pydantic than onepass needs, so it is no part of the lock: install it in an
environment of its own, with onepass, to run these.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from onepass.adapters.merging import merge
from test_merge_oracles import adapters_of, deltas

try:
    from mergekit.merge_methods.generalized_task_arithmetic import get_mask
    from mergekit.merge_methods.multislerp import multislerp
    from mergekit.merge_methods.slerp import slerp
    from mergekit.sparsify import magnitude, magnitude_outliers
except Exception as error:  # not installed, or not for this pydantic
    pytest.skip(f"mergekit cannot be imported: {error}", allow_module_level=True)

WEIGHTS = [0.75, 0.5]


def task_arithmetic(dense: list[Tensor], sparsify: Any, *, elect: bool, mean: bool) -> Tensor:
    """mergekit's `GTATask`, whose parts alone are functions."""
    weights = torch.tensor(WEIGHTS).double()[:, None, None]
    scaled = torch.stack([sparsify(matrix.clone()) for matrix in dense]) * weights
    mask = get_mask(scaled) if elect else torch.ones_like(scaled)
    total, share = (scaled * mask).sum(0), (weights * mask).sum(0)
    return total / torch.where(share == 0, 1.0, share) if mean else total


def oracle(method: str, dense: list[Tensor]) -> Tensor:
    if method == "slerp":
        return torch.as_tensor(slerp(WEIGHTS[1] / sum(WEIGHTS), *dense)).double()
    if method == "multi-slerp":
        return torch.as_tensor(multislerp([matrix.clone() for matrix in dense], WEIGHTS))
    if method == "ties":
        return task_arithmetic(dense, lambda m: magnitude(m, 0.3), elect=True, mean=True)
    return task_arithmetic(
        dense, lambda m: magnitude_outliers(m, 0.6, gamma=0.1), elect=False, mean=False
    )


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("slerp", {}),
        ("multi-slerp", {}),
        ("ties", {"density": 0.3, "variant": "mergekit"}),
        ("breadcrumbs", {"density": 0.6, "gamma": 0.1}),
    ],
)
def test_a_merge_is_mergekits(method: str, options: dict[str, Any]) -> None:
    adapters = adapters_of(2)
    merged = merge(adapters, method, WEIGHTS, rank=8, **options)
    for module, lora in merged.modules.items():
        expected = oracle(method, deltas(adapters, module))
        assert torch.allclose(lora.delta(), expected, atol=1e-5)
