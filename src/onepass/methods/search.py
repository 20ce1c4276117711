"""Weights of a merge found from a few examples of the compositional task, without gradients."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

from onepass.adapters.activation import common_invocation
from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.adapters.merging.linear import sum_factors
from onepass.core.errors import OnepassError
from onepass.core.optional import optional
from onepass.methods.setting import Setting, method
from onepass.model.training.objective import mean_loss


@method("lm-cocktail", "LM-Cocktail", reference="lm-cocktail", options=("shots", "temperature"))
def lm_cocktail(setting: Setting) -> Composition:
    """Weights softmax(-loss_i / temperature), loss_i that of adapter i alone (arXiv 2311.13534).

    On `shots` (default 5) examples; `temperature` defaults to the authors' 5.
    """
    temperature = setting.number("temperature", 5.0, 1e-6)
    shots = setting.shots(5)
    alone = (Pass(setting.task, (Weighted(adapter),)) for adapter in setting.parts())
    scores = [-mean_loss(setting.base, pass_, shots) / temperature for pass_ in alone]
    shares = [math.exp(score - max(scores)) for score in scores]
    weights = [share / sum(shares) for share in shares]
    return setting.compose(setting.linear_merge(weights), weights=weights)


@method(
    "lorahub",
    "LoraHub",
    reference="lorahub",
    options=("shots", "budget", "bound", "penalty", "form"),
)
def lorahub(setting: Setting) -> Composition:
    """Weights within ± `bound` (1.5) by gradient-free search, from 0 (arXiv 2307.13269).

    What is minimised over `budget` (40) tries is the mean loss on `shots` (5) examples plus
    `penalty` (0.05) times the mean |w|. `form` "linear" weighs the ΔW_i; "quadratic" is the
    authors' (Σ w_i B_i)(Σ w_i A_i), which needs equal ranks and stores a new adapter.
    """
    form = setting.option("form", "linear")
    if form not in ("linear", "quadratic"):
        raise OnepassError(f"lorahub: form is {form!r}; it must be linear or quadratic")
    parts, shots = setting.parts(), setting.shots(5)
    penalty = setting.number("penalty", 0.05, 0)

    def candidate(weights: Sequence[float]) -> Pass:
        if form == "linear":
            return setting.linear_merge(weights)
        merged = Weighted(_quadratic(parts, weights), stored=True)
        return Pass(setting.task, (merged,))

    def objective(weights: Any) -> float:
        size = sum(abs(float(w)) for w in weights) / len(parts)
        return mean_loss(setting.base, candidate([float(w) for w in weights]), shots) + (
            penalty * size
        )

    optimizer = _optimizer(
        len(parts), setting.number("bound", 1.5, 1e-6), setting.count("budget", 40),
        setting.seed,
    )  # fmt: skip
    with warnings.catch_warnings():  # nevergrad's choice of optimiser is no news to our user
        warnings.simplefilter("ignore", UserWarning)
        weights = [float(w) for w in optimizer.minimize(objective).value]
    return setting.compose(candidate(weights), weights=weights)


def _quadratic(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    modules: dict[str, Lora] = {}
    for module in dict.fromkeys(module for adapter in adapters for module in adapter.modules):
        pairs = zip(adapters, weights, strict=True)
        found = [(a.modules[module], w) for a, w in pairs if module in a.modules]
        loras, scales = [lora for lora, _ in found], [weight for _, weight in found]
        what = f"{module}: lorahub's quadratic form"
        modules[module] = sum_factors(loras, scales, scales, what)
    invocation = common_invocation(adapters)
    return Adapter("lorahub", modules, adapters[0].base, invocation=invocation)


def _optimizer(size: int, bound: float, budget: int, seed: int) -> Any:
    nevergrad = optional("nevergrad", "search", "lorahub")
    space = nevergrad.p.Array(init=[0.0] * size, lower=-bound, upper=bound)
    space.random_state.seed(seed)
    return nevergrad.optimizers.NGOpt(parametrization=space, budget=budget, num_workers=1)
