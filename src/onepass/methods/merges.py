"""Merges that need no data: one adapter from several, by arithmetic."""

from collections.abc import Callable, Sequence

from onepass.adapters.adapter import Adapter
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.adapters.merge import merge_concat, merge_peft_linear
from onepass.methods.setting import Setting, method


@method("linear", "Linear merge", reference="linear", options=("weights",))
def linear(setting: Setting) -> Composition:
    """ΔW = Σ wᵢ ΔWᵢ exactly; the task adapters are used as they are, so nothing is stored."""
    parts = setting.parts()
    weights = setting.option("weights", [1.0 / len(parts)] * len(parts))
    weighted = tuple(Weighted(a, float(w)) for a, w in zip(parts, weights, strict=True))
    return setting.compose(Pass(setting.task.name, weighted), method="linear")


@method("peft-linear", "Linear merge (PEFT)", options=("weights",))
def peft_linear(setting: Setting) -> Composition:
    """PEFT's `linear`: A and B are averaged apart, which adds cross terms B_i A_j."""
    return _stored(setting, merge_peft_linear, "peft-linear")


@method("concat", "Concatenation", reference="concat", options=("weights",))
def concat(setting: Setting) -> Composition:
    """PEFT's `cat`: the ranks add up. The same ΔW as `linear`, stored as a new adapter."""
    return _stored(setting, merge_concat, "concat")


Merge = Callable[[Sequence[Adapter], Sequence[float] | None], Adapter]


def _stored(setting: Setting, merge: Merge, name: str) -> Composition:
    merged = merge(setting.parts(), setting.option("weights", None))
    pass_ = Pass(setting.task.name, (Weighted(merged, stored=True),))
    return setting.compose(pass_, method=name)
