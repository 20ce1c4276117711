"""How many parameters each method stores for a base of a given shape.

With rank 32 and rank 4 on all seven projections these give table 2 of arXiv 2507.16083.
"""

from collections.abc import Sequence

from onepass.adapters.shape import BaseShape


def lora_parameters(shape: BaseShape, rank: int) -> int:
    """A LoRA of `rank` on every module: Σ r · (in + out)."""
    return sum(rank * (out + in_) for out, in_ in shape.modules.values())


def lc_parameters(shape: BaseShape) -> int:
    """Learnable Calibration, one bias per projection type, shared by all layers: Σ out."""
    return sum(out for out, _ in shape.projections().values())


def lcpp_parameters(shape: BaseShape, rank: int) -> int:
    """Learnable Calibration++, one pair per projection type, for all layers: Σ r · (in + out)."""
    return sum(rank * (out + in_) for out, in_ in shape.projections().values())


def core_parameters(shape: BaseShape, ranks: Sequence[int]) -> int:
    """A core, one matrix per projection type, for adapters of these ranks: Σ (Σ r_i)²."""
    return len(shape.projections()) * sum(ranks) ** 2


def gain_parameters(shape: BaseShape) -> int:
    """Gains and biases, one of each per projection type, shared by all layers: Σ 2 out."""
    return 2 * lc_parameters(shape)


def cat_parameters(shape: BaseShape, adapters: int) -> int:
    """Learned concatenation: a weight per module and adapter."""
    return len(shape.modules) * adapters
