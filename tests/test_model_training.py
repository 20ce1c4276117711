"""Training adapters and calibrations on the micro base."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conftest import MakeAdapter
from onepass.adapters.adapter import Adapter, load_adapter, save_adapter
from onepass.adapters.calibration import Calibration, Form, Kind
from onepass.adapters.composition import (
    Composition,
    Pass,
    Weighted,
    load_composition,
    save_composition,
)
from onepass.adapters.history import History
from onepass.core.errors import OnepassError
from onepass.model.attach import folded
from onepass.model.load import Base
from onepass.model.tokens import collate, encode_examples, target_loss
from onepass.model.training import calibration as training
from onepass.model.training.adapter import train_adapter
from onepass.model.training.calibration import calibrated, train_calibration
from onepass.model.training.options import TrainOptions
from onepass.tasks.book import parse_task
from onepass.tasks.example import Example

TASK = "summarize+translate:es"
QUICK = TrainOptions(
    learning_rate=0.02, max_steps=12, batch_size=4, eval_every=4, patience=None, clip=None,
    precision="float32",
)  # fmt: skip
KINDS: list[tuple[Kind, Form]] = [
    ("lc", "output"), ("lc", "column"), ("lc++", "lowrank"), ("core", "core"),
    ("lc-gain", "gain"), ("cat", "weights"),
]  # fmt: skip


def loss_of(base: Base, examples: list[Example], task: str = TASK) -> float:
    rows = encode_examples(base, parse_task(task), examples)
    with torch.no_grad():
        loss, count = target_loss(base.model, collate(rows, base.pad_id, base.device))
    return loss.item() / count


def weights(base: Base) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in base.model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.fixture
def merge(make_adapter: MakeAdapter) -> Pass:
    one, two = make_adapter("summarize", 4, 0, 0.2), make_adapter("translate:es", 4, 1, 0.2)
    return Pass(parse_task(TASK), (Weighted(one, 0.5), Weighted(two, 0.5)))


def calibrate(base: Base, merge: Pass, examples: list[Example], **more: Any) -> Calibration:
    more = {"options": QUICK, "progress": False, **more}
    return train_calibration(base, [merge], [examples[:8]], [examples[8:]], **more)


def history_of(calibration: Calibration) -> History:
    assert calibration.history is not None
    return calibration.history


def deltas(adapter: Adapter) -> dict[str, Tensor]:
    return {path: lora.delta() for path, lora in adapter.modules.items()}


def test_an_adapter_learns_its_task_and_leaves_the_base_alone(
    base: Base, examples: list[Example]
) -> None:
    before, at_first = weights(base), loss_of(base, examples, "summarize")
    adapter = train_adapter(
        base, parse_task("summarize"), examples, examples[:4], 4, options=QUICK, progress=False
    )
    assert same(weights(base), before)
    assert not hasattr(base.model, "peft_config")  # or the next one would be its second adapter
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert loss_of(base, examples, "summarize") == at_first
    assert adapter.modules.keys() == base.shape.modules.keys()
    assert adapter.base == base.name
    with folded(base, Pass(parse_task("summarize"), (Weighted(adapter),))):
        trained = loss_of(base, examples[:4], "summarize")
    assert trained == pytest.approx(adapter.card["validation_loss"], abs=1e-4)
    assert trained < 0.9 * at_first


def test_an_interrupted_adapter_resumes_to_the_same_change(
    base: Base, examples: list[Example], tmp_path: Path
) -> None:
    def train(**more: Any) -> Adapter:
        task = parse_task("summarize")
        return train_adapter(base, task, examples, examples[:4], 2, None, QUICK, **more)

    def stop(step: int, loss: float) -> None:
        if step == 5:
            raise KeyboardInterrupt

    before = weights(base)
    whole = train(progress=False)
    with pytest.raises(KeyboardInterrupt):
        train(progress=False, state_dir=tmp_path, on_step=stop)
    assert same(weights(base), before)
    resumed = train(progress=False, state_dir=tmp_path)
    assert same(deltas(resumed), deltas(whole))
    for _ in range(2):  # a folder with a history may be replaced
        save_adapter(resumed, tmp_path / "saved")
    found, expected = load_adapter(tmp_path / "saved").history, whole.history
    assert found is not None
    assert expected is not None
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.best_loss == expected.best_loss
    assert [step for step, _ in found.validation] == [4, 8, 12]
    assert "losses" not in repr(found)
    (tmp_path / "saved" / "history.json").write_text('{"losses": ["?"]}')
    with pytest.raises(OnepassError, match=r"history\.json, field losses\.0"):
        load_adapter(tmp_path / "saved")


def test_a_composition_keeps_the_history_of_what_was_trained_for_it(
    base: Base, merge: Pass, examples: list[Example], tmp_path: Path
) -> None:
    calibration = calibrate(base, merge, examples, kind="lc")
    passes = (replace(merge, calibration=calibration),)
    for _ in range(2):
        save_composition(Composition(base.shape, merge.task, passes, "lc"), tmp_path / "saved")
    found = load_composition(tmp_path / "saved").history
    assert found is not None
    assert found.losses == pytest.approx(history_of(calibration).losses, rel=1e-5)
    assert Composition(base.shape, merge.task, (merge,), "linear").history is None
    expert = replace(merge.adapters[0].adapter, history=found)
    for stored, expected in ((True, found), (False, None)):
        alone = Pass(merge.task, (Weighted(expert, stored=stored),))
        assert Composition(base.shape, merge.task, (alone,), "joint-expert").history == expected


@pytest.mark.parametrize(
    ("targets", "ends"),
    [(["q_proj"], ("q_proj",)), (["1.mlp.up_proj", "v_proj"], ("1.mlp.up_proj", "v_proj"))],
)
def test_an_adapter_changes_the_modules_that_are_named(
    base: Base, examples: list[Example], targets: list[str], ends: tuple[str, ...]
) -> None:
    task = parse_task("summarize")
    adapter = train_adapter(
        base, task, examples, rank=2, options=QUICK, progress=False, target_modules=targets
    )
    assert list(adapter.modules) == [path for path in base.shape.modules if path.endswith(ends)]
    assert all(float(lora.delta().norm()) > 0 for lora in adapter.modules.values())
    for wrong, reason in (("qproj", "did you mean 'q_proj'"), ("proj", "unknown target module")):
        with pytest.raises(OnepassError, match=reason):
            train_adapter(base, task, examples, rank=2, target_modules=["v_proj", wrong])
    with pytest.raises(OnepassError, match="no target modules"):
        train_adapter(base, task, examples, rank=2, target_modules=[])


@pytest.mark.parametrize(("kind", "form"), KINDS)
def test_an_untrained_calibration_has_no_effect(
    base: Base, merge: Pass, kind: Kind, form: Form
) -> None:
    ids = torch.arange(6, 40).view(2, 17)
    tensors = training.initial_parameters(base, [merge], kind, form, 4, 0)
    with torch.no_grad(), folded(base, merge):
        expected = base.model(input_ids=ids).logits
    with torch.no_grad(), calibrated(base, merge, form, tensors):
        torch.testing.assert_close(base.model(input_ids=ids).logits, expected)


@pytest.mark.parametrize(("kind", "form"), KINDS)
def test_only_the_calibration_changes_and_it_acts_folded_as_in_training(
    base: Base, merge: Pass, examples: list[Example], kind: Kind, form: Form
) -> None:
    before, adapters = weights(base), [deltas(w.adapter) for w in merge.adapters]
    calibration = calibrate(base, merge, examples, kind=kind, form=form, rank=2)
    assert same(weights(base), before)
    assert all(same(deltas(w.adapter), d) for w, d in zip(merge.adapters, adapters, strict=True))
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())
    assert (calibration.kind, calibration.form) == (kind, form)
    assert calibration.tensors.keys() == base.shape.projections().keys()
    with folded(base, merge):
        uncalibrated = loss_of(base, examples[8:])
    with folded(base, Pass(merge.task, merge.adapters, calibration)):
        after = loss_of(base, examples[8:])
    assert after == pytest.approx(history_of(calibration).best_loss, abs=1e-4)
    assert after < uncalibrated


@pytest.mark.parametrize(("kind", "form"), KINDS)
def test_bfloat16_trains_nearly_the_same(
    base: Base, merge: Pass, examples: list[Example], kind: Kind, form: Form
) -> None:
    options = replace(QUICK, precision="bfloat16")
    wide, narrow = (
        history_of(calibrate(base, merge, examples, kind=kind, form=form, options=each))
        for each in (QUICK, options)
    )
    assert wide.losses != narrow.losses
    assert narrow.best_loss == pytest.approx(wide.best_loss, rel=0.02)


def test_training_follows_the_seed(base: Base, merge: Pass, examples: list[Example]) -> None:
    one, two = (calibrate(base, merge, examples, rank=2).tensors for _ in range(2))
    assert all(same(one[proj], two[proj]) for proj in one)


@pytest.mark.parametrize("kind", ["lc++", "core", "lc-gain", "cat"])
def test_an_interrupted_calibration_resumes_to_the_same(
    base: Base, merge: Pass, examples: list[Example], tmp_path: Path, kind: Kind
) -> None:
    def stop(step: int, loss: float) -> None:
        if step == 6:
            raise KeyboardInterrupt

    before = weights(base)
    whole = calibrate(base, merge, examples, kind=kind).tensors
    with pytest.raises(KeyboardInterrupt):
        calibrate(base, merge, examples, kind=kind, state_dir=tmp_path, on_step=stop)
    assert same(weights(base), before)
    resumed = calibrate(base, merge, examples, kind=kind, state_dir=tmp_path).tensors
    assert all(same(whole[proj], resumed[proj]) for proj in whole)


@pytest.mark.parametrize(("kind", "form"), KINDS)
def test_a_shared_calibration_acts_on_each_merge_as_in_training(
    base: Base,
    merge: Pass,
    make_adapter: MakeAdapter,
    examples: list[Example],
    kind: Kind,
    form: Form,
) -> None:
    parts = [make_adapter("reply", 4, 7, 0.2), make_adapter("tone:witty", 4, 8, 0.2)]
    alike = kind in ("core", "cat")  # which need as many adapters in every merge
    weighted = tuple(Weighted(part) for part in (parts if alike else parts[:1]))
    other = Pass(parse_task("reply+tone:witty"), weighted)
    before = weights(base)
    calibration = train_calibration(
        base, [merge, other], [examples[:6], examples[:5]], [examples[8:], examples[6:]],
        kind=kind, form=form, options=QUICK, progress=False,
    )  # fmt: skip
    assert same(weights(base), before)
    total = count = 0.0
    for pass_, held_out in ((merge, examples[8:]), (other, examples[6:])):
        rows = encode_examples(base, pass_.task, held_out)
        tokens = sum(len(row) - row.start for row in rows)
        with folded(base, Pass(pass_.task, pass_.adapters, calibration)):
            total += tokens * loss_of(base, held_out, pass_.task.name)
        count += tokens
    assert total / count == pytest.approx(history_of(calibration).best_loss, abs=1e-4)


def test_a_merge_of_some_layers_is_calibrated_on_those(
    base: Base, make_adapter: MakeAdapter, examples: list[Example]
) -> None:
    full = make_adapter()
    path = "model.layers.1.self_attn.v_proj"
    merge = Pass(
        parse_task(TASK), (Weighted(Adapter("one", {path: full.modules[path]}, base.name, {})),)
    )
    calibration = calibrate(base, merge, examples, kind="lc")
    assert list(calibration.tensors) == ["v_proj"]
    with folded(base, Pass(parse_task(TASK), merge.adapters, calibration)):
        loss = loss_of(base, examples[8:])
    assert loss == pytest.approx(history_of(calibration).best_loss, abs=1e-4)


def test_bad_requests_are_refused(base: Base, merge: Pass, examples: list[Example]) -> None:
    with pytest.raises(OnepassError, match="no examples of summarize"):
        calibrate(base, merge, [])
    with pytest.raises(OnepassError, match="give one set of each per pass"):
        train_calibration(base, [merge, merge], [examples])
    with pytest.raises(OnepassError, match="unknown calibration kind 'lc\\+'"):
        calibrate(base, merge, examples, kind="lc+")
    with pytest.raises(OnepassError, match="calibration form 'column' of lc"):
        calibrate(base, merge, examples, kind="lc++", form="column")
    done = Calibration("lc", "output", {"q_proj": {"bias": torch.zeros(32)}})
    with pytest.raises(OnepassError, match="calibrated already"):
        calibrate(base, Pass(parse_task(TASK), merge.adapters, done), examples)
    with pytest.raises(OnepassError, match="rank is 0"):
        train_adapter(base, parse_task("summarize"), examples, rank=0)
