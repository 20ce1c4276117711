"""Weights found from a few examples: LM-Cocktail and LoraHub, on the micro base."""

import math
from typing import Any

import pytest
import torch

from conftest import MakeAdapter
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.core.errors import OnepassError
from onepass.methods import METHODS, Setting
from onepass.model.load import Base
from onepass.model.training.objective import mean_loss
from onepass.tasks.book import parse_task
from onepass.tasks.example import Example

TASK = "summarize+translate:es"


@pytest.fixture
def setting(base: Base, make_adapter: MakeAdapter, examples: list[Example]) -> Setting:
    parts = {name: make_adapter(name, 4, seed, 0.2) for seed, name in enumerate(TASK.split("+"))}
    return Setting(base, parse_task(TASK), parts, train=examples)


def build(setting: Setting, method: str, seed: int = 0, **options: Any) -> Composition:
    made = Setting(
        setting.base, setting.task, setting.adapters, setting.train, options=options, seed=seed
    )
    return METHODS.get(method).build(made)


def loss(setting: Setting, pass_: Pass, shots: int = 5) -> float:
    return mean_loss(setting.base, pass_, setting.train[:shots])


def test_lm_cocktail_weighs_by_the_loss_of_each_alone(setting: Setting) -> None:
    losses = [loss(setting, Pass(parse_task(TASK), (Weighted(part),))) for part in setting.parts()]
    for temperature in (5.0, 0.1):
        composition = build(setting, "lm-cocktail", temperature=temperature)
        weights = [weighted.weight for weighted in composition.passes[0].adapters]
        assert sum(weights) == pytest.approx(1)
        ratio = math.exp((losses[1] - losses[0]) / temperature)
        assert weights[0] / weights[1] == pytest.approx(ratio, rel=1e-4)
        assert composition.card["weights"] == weights


def test_lorahub_finds_better_weights_than_it_starts_with(setting: Setting) -> None:
    composition = build(setting, "lorahub", bound=0.8, penalty=0.0)
    weights = [weighted.weight for weighted in composition.passes[0].adapters]
    assert all(-0.8 <= w <= 0.8 for w in weights)
    assert loss(setting, composition.passes[0]) < loss(setting, Pass(parse_task(TASK)))
    assert build(setting, "lorahub", bound=0.8, penalty=0.0).card["weights"] == weights


def test_lorahub_keeps_away_from_weights_that_cost_more_than_they_give(setting: Setting) -> None:
    assert build(setting, "lorahub", penalty=1e6).card["weights"] == pytest.approx([0, 0])


def test_the_quadratic_form_weighs_both_factors(setting: Setting) -> None:
    composition = build(setting, "lorahub", form="quadratic", budget=12)
    weights = composition.card["weights"]
    (weighted,) = composition.passes[0].adapters
    assert weighted.stored
    one, two = setting.parts()
    for module, lora in weighted.adapter.modules.items():
        a, b = one.modules[module], two.modules[module]
        up = weights[0] * a.up + weights[1] * b.up
        down = weights[0] * a.down + weights[1] * b.down
        assert torch.allclose(lora.delta(), up @ down, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "options", "complaint"),
    [
        ("lm-cocktail", {"temperature": 0}, "temperature is 0"),
        ("lm-cocktail", {"temperature": "warm"}, "temperature is 'warm'"),
        ("lorahub", {"bound": -1}, "bound is -1"),
        ("lorahub", {"budget": 0}, "budget is 0"),
        ("lorahub", {"form": "cubic"}, "must be linear or quadratic"),
        ("lorahub", {"shots": 0}, "shots is 0; it must be a whole number"),
    ],
)
def test_what_cannot_be_done_is_said(
    method: str, options: dict[str, Any], complaint: str, setting: Setting
) -> None:
    with pytest.raises(OnepassError, match=complaint):
        build(setting, method, **options)
