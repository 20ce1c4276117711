"""ZipLoRA and DAM on the micro base: what is learnt, and that it is of the promised form."""

import math

import pytest
import torch

from conftest import MakeAdapter
from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.composition import Pass, Weighted
from onepass.core.errors import OnepassError
from onepass.methods import METHODS, Setting
from onepass.model.attach import attached, folded
from onepass.model.load import Base
from onepass.model.tokens import collate, encode_examples, target_logits
from onepass.model.training.columns import (
    Rule,
    divergence,
    overlap,
    similarity,
    squared_error,
    train_columns,
)
from onepass.model.training.options import TrainOptions
from onepass.tasks.book import parse_task
from onepass.tasks.example import Example

TASK = "summarize+translate:es"
TASKS = [parse_task(part) for part in TASK.split("+")]
QUICK = TrainOptions(
    learning_rate=0.02, max_steps=40, batch_size=4, eval_every=None, precision="float32"
)


@pytest.fixture
def parts(make_adapter: MakeAdapter) -> list[Adapter]:
    return [make_adapter(name, 4, seed, 0.2) for seed, name in enumerate(TASK.split("+"))]


def logits(base: Base, examples: list[Example], number: int) -> torch.Tensor:
    rows = encode_examples(base, TASKS[number], examples)
    with torch.no_grad():
        return target_logits(base.model, collate(rows, base.pad_id, base.device))


@pytest.mark.parametrize(
    "rule", [Rule(1.0, squared_error, overlap), Rule(0.5, divergence, similarity)]
)
def test_the_merge_comes_nearer_to_its_teachers(
    rule: Rule, base: Base, parts: list[Adapter], examples: list[Example]
) -> None:
    merged = train_columns(base, parts, TASKS, [examples, examples], rule, QUICK, progress=False)
    start = Pass(parse_task(TASK), tuple(Weighted(part, rule.start) for part in parts))
    distances = {"start": 0.0, "learnt": 0.0}
    for number, part in enumerate(parts):
        with folded(base, Pass(parse_task(TASK), (Weighted(part),))):
            wanted = logits(base, examples, number)
        for name, pass_ in (
            ("start", start),
            ("learnt", Pass(parse_task(TASK), (Weighted(merged),))),
        ):
            with folded(base, pass_):
                distances[name] += float(rule.distance(logits(base, examples, number), wanted))
    assert distances["learnt"] < 0.9 * distances["start"]


def test_each_adapter_is_scaled_column_by_column(
    base: Base, parts: list[Adapter], examples: list[Example]
) -> None:
    rule = Rule(1.0, squared_error, overlap)
    merged = train_columns(base, parts, TASKS, [examples, examples], rule, QUICK, progress=False)
    moved = 0.0
    for module, lora in merged.modules.items():
        one, other = (part.modules[module] for part in parts)
        assert torch.equal(lora.up, torch.cat([one.up, other.up], 1))
        for down, learnt in (
            (one.down, lora.down[: one.rank]),
            (other.down, lora.down[one.rank :]),
        ):
            ratio = learnt / down
            assert torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-3)
            moved = max(moved, float((ratio - 1).abs().max()))
    assert moved > 0.05


def test_one_adapter_alone_is_its_own_teacher(
    base: Base, parts: list[Adapter], examples: list[Example]
) -> None:
    rule = Rule(1.0, squared_error, overlap)
    merged = train_columns(base, parts[:1], TASKS[:1], [examples], rule, QUICK, progress=False)
    for module, lora in merged.modules.items():
        assert torch.allclose(lora.delta(), parts[0].modules[module].delta(), atol=1e-5)


def test_the_distances_and_penalties_are_those_of_their_definitions() -> None:
    random = torch.Generator().manual_seed(0)
    one, other = (torch.randn(5, 7, generator=random) for _ in range(2))
    kl = sum(
        float(p * (p.log() - q.log()))
        for p, q in zip(other.softmax(-1).flatten(), one.softmax(-1).flatten(), strict=True)
    )
    assert float(divergence(one, other)) == pytest.approx(kl, rel=1e-4)
    squares = ((one - other) ** 2).mean(-1).sum()
    assert float(squared_error(one, other)) == pytest.approx(float(squares), rel=1e-5)
    a, b = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0])
    assert float(overlap(a, b)) == pytest.approx((3 + 2) / 2)
    assert float(similarity(a, b)) == pytest.approx(1 / math.sqrt(5 * 10), rel=1e-5)


@pytest.mark.parametrize("method", ["ziplora", "dam"])
def test_the_methods_need_inputs_and_look_at_no_targets(
    method: str, base: Base, parts: list[Adapter], examples: list[Example]
) -> None:
    adapters = dict(zip(TASK.split("+"), parts, strict=True))
    options = {"max_steps": 2, "batch_size": 4, "shots": 6}
    blind = [Example(each.id, each.input, ("nothing to see",)) for each in examples]
    built = [
        METHODS.get(method).build(
            Setting(base, parse_task(TASK), adapters, train=train, options=options)
        )
        for train in (examples, blind)
    ]
    one, other = (composition.passes[0].adapters[0].adapter for composition in built)
    assert all(torch.equal(x.down, other.modules[m].down) for m, x in one.modules.items())
    with pytest.raises(OnepassError, match="needs training examples"):
        METHODS.get(method).build(Setting(base, parse_task(TASK), adapters, options=options))


def test_adapters_on_different_modules_mix_too(
    base: Base, parts: list[Adapter], examples: list[Example]
) -> None:
    one = Adapter("one", {m: x for m, x in parts[0].modules.items() if "mlp" not in m})
    two = Adapter("two", {m: x for m, x in parts[1].modules.items() if "mlp" in m})
    rule = Rule(1.0, squared_error, overlap)
    merged = train_columns(
        base, [one, two], TASKS, [examples, examples], rule, QUICK, progress=False
    )
    assert merged.modules.keys() == {*one.modules, *two.modules}
    assert all(isinstance(lora, Lora) for lora in merged.modules.values())
    with attached(base, Pass(parse_task(TASK), (Weighted(merged),))):
        assert torch.isfinite(logits(base, examples, 0)).all()
