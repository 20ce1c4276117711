"""How many parameters each method stores for a base of a given shape.

With rank 32 and rank 4 on all seven projections these give table 2 of arXiv 2507.16083.
"""

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
