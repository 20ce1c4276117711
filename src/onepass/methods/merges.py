"""Merges that need no data: one adapter from several, by arithmetic."""

from collections.abc import Callable, Sequence

from onepass.adapters.adapter import Adapter
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.adapters.merge import merge_concat, merge_peft_linear
from onepass.methods.setting import Setting, method


@method("linear", "Linear merge", reference="linear", options=("weights",))
def linear(setting: Setting) -> Composition:
    """ΔW = Σ wᵢ ΔWᵢ exactly; the task adapters are used as they are, so nothing is stored."""
    return setting.compose(setting.merged(setting.option("weights", None)))


@method("peft-linear", "Linear merge (PEFT)", options=("weights",))
def peft_linear(setting: Setting) -> Composition:
    """PEFT's `linear`: A and B are averaged apart, which adds cross terms B_i A_j."""
    return _stored(setting, merge_peft_linear)


@method("concat", "Concatenation", reference="concat", options=("weights",))
def concat(setting: Setting) -> Composition:
    """PEFT's `cat`: the ranks add up. The same ΔW as `linear`, stored as a new adapter."""
    return _stored(setting, merge_concat)


Merge = Callable[[Sequence[Adapter], Sequence[float] | None], Adapter]


def _stored(setting: Setting, merge: Merge) -> Composition:
    merged = merge(setting.parts(), setting.option("weights", None))
    return setting.compose(Pass(setting.task.name, (Weighted(merged, stored=True),)))
