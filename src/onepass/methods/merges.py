"""Merges that need no data: one adapter from several, by arithmetic; a row for each there is."""

from collections.abc import Callable, Mapping

from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.adapters.merging import MERGES, MergeMethod, merge
from onepass.methods.setting import Setting, method

REFERENCES = {"concat": "concat", "slerp": "slerp", "ties": "ties", "dare": "dare"}
"""Merge to its row in the paper's table 1."""


@method("linear", "Linear merge", reference="linear", options=("weights",))
def linear(setting: Setting) -> Composition:
    """ΔW = Σ wᵢ ΔWᵢ exactly; the task adapters are used as they are, so nothing is stored.

    Unless weights differ from module to module, which takes an adapter of its own.
    """
    weights = setting.option("weights", None)
    if weights is None:
        return setting.compose(setting.linear_merge())
    merged = merge(setting.parts(), "linear", weights)  # which also checks the weights
    if any(isinstance(weight, Mapping) for weight in weights):
        return setting.compose(Pass(setting.task, (Weighted(merged, stored=True),)))
    return setting.compose(setting.linear_merge(merged.card["weights"]))


def stored(found: MergeMethod) -> Callable[[Setting], Composition]:
    """A merge as a method: its result is stored as an adapter of this composition."""

    def build(setting: Setting) -> Composition:
        options = dict(setting.options)
        weights, rank = options.pop("weights", None), options.pop("rank", None)
        pico = options.pop("pico", False)
        merged = merge(
            setting.parts(), found.name, weights, rank=rank, seed=setting.seed, pico=pico, **options
        )
        return setting.compose(Pass(setting.task, (Weighted(merged, stored=True),)))

    return build


for name in MERGES:
    if name != "linear":
        found = MERGES.get(name)
        register = method(
            name,
            found.title,
            made_of=(found.merge,),
            reference=REFERENCES.get(name, ""),
            options=("weights", "rank", "pico", *found.options),
        )
        register(stored(found))
