"""The training loop: it learns, resumes exactly, and stops where it should."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onepass.adapters.history import History
from onepass.core.errors import OnepassError
from onepass.model.training.fit import _uninterrupted, fit
from onepass.model.training.options import TrainOptions
from onepass.model.training.state import STATE

torch.manual_seed(1)
DATA = [(torch.randn(3), torch.randn(())) for _ in range(12)]
OPTIONS = TrainOptions(
    learning_rate=0.05, epochs=5, batch_size=1, eval_every=7, patience=None, precision="float32"
)
Item = tuple[Tensor, Tensor]


class Toy:
    """Linear regression: an item's squared error, counted as two tokens."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, generator=generator))
        self.bias = nn.Parameter(torch.zeros(()))
        self.order: list[int] = []

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {"weight": self.weight, "bias": self.bias}

    def loss(self, batch: Item) -> tuple[Tensor, int]:
        x, y = batch
        noise = 1 + 0.1 * torch.rand(())  # as dropout would, a resumed run must draw the same
        return ((x @ self.weight * noise + self.bias - y) ** 2).sum(), 2

    def fit(self, options: TrainOptions = OPTIONS, **more: Any) -> History:
        def batches(epoch: int) -> Sequence[Item]:
            order = torch.randperm(len(DATA), generator=torch.Generator().manual_seed(epoch))
            return [DATA[int(i)] for i in order]

        more = {"validation": DATA[:4], "progress": False, **more}
        return fit(self.parameters, self.loss, batches, options=options, **more)

    def values(self) -> list[float]:
        return [*self.weight.tolist(), self.bias.item()]


def interrupt_at(stop: int, error: type[BaseException] = KeyboardInterrupt) -> Any:
    def on_step(step: int, loss: float) -> None:
        if step == stop:
            raise error

    return on_step


def test_it_learns_and_keeps_the_best() -> None:
    toy = Toy()
    history = toy.fit()
    assert history.steps == 60 == len(history.losses)
    assert [step for step, _ in history.validation] == [*range(7, 60, 7), 60]
    assert history.best_loss == min(loss for _, loss in history.validation)
    assert sum(history.losses[-12:]) < 0.7 * sum(history.losses[:12])


@pytest.mark.parametrize("step", [1, 7, 12, 33, 60])
def test_an_interrupted_run_resumes_to_identical_parameters(tmp_path: Path, step: int) -> None:
    whole, parts = Toy(), Toy()
    expected = whole.fit()
    with pytest.raises(KeyboardInterrupt):
        parts.fit(state_dir=tmp_path, on_step=interrupt_at(step))
    resumed = Toy()
    found = resumed.fit(state_dir=tmp_path)
    assert resumed.values() == whole.values()
    assert found.losses == expected.losses
    assert found.validation == expected.validation


def test_a_killed_run_goes_on_from_its_last_validation(tmp_path: Path) -> None:
    whole, killed, resumed = Toy(), Toy(), Toy()
    whole.fit()
    with pytest.raises(SystemError):
        killed.fit(state_dir=tmp_path, on_step=interrupt_at(17, SystemError))
    steps: list[int] = []
    resumed.fit(state_dir=tmp_path, on_step=lambda step, loss: steps.append(step))
    assert steps == list(range(15, 61))
    assert resumed.values() == whole.values()


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first, second = Toy(), Toy()
    first.fit(state_dir=tmp_path)
    second.fit(state_dir=tmp_path, on_step=interrupt_at(60, AssertionError))
    assert second.values() == first.values()


def test_a_state_is_not_resumed_as_something_else(tmp_path: Path) -> None:
    Toy().fit(state_dir=tmp_path, identity={"task": "reply"})
    with pytest.raises(OnepassError, match="task 'reply' -> 'summarize'"):
        Toy().fit(state_dir=tmp_path, identity={"task": "summarize"})
    with pytest.raises(OnepassError, match=r"learning_rate 0\.05 -> 0\.1"):
        Toy().fit(TrainOptions(learning_rate=0.1), state_dir=tmp_path, identity={"task": "reply"})


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    Toy().fit(state_dir=tmp_path)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:90])
    with pytest.raises(OnepassError, match="corrupt"):
        Toy().fit(state_dir=tmp_path)


def test_a_state_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OnepassError, match="cannot write"):
        Toy().fit(state_dir=tmp_path / "file", on_step=interrupt_at(1, AssertionError))


def test_ctrl_c_waits_for_the_end_of_an_optimiser_step() -> None:
    reached: list[int] = []

    def step() -> None:
        with _uninterrupted():
            signal.raise_signal(signal.SIGINT)
            reached.append(1)

    with pytest.raises(KeyboardInterrupt):
        step()
    assert reached


def test_accumulation_is_a_larger_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Toy(), Toy()
    options = TrainOptions(learning_rate=0.05, max_steps=3, accumulation=4, precision="float32")
    whole = lambda b: (((b[0] @ one.weight + one.bias - b[1]) ** 2).sum(), 2)  # noqa: E731
    monkeypatch.setattr(one, "loss", whole)
    one.fit(options, validation=[])

    def all_of_four(batch: Sequence[Item]) -> tuple[Tensor, int]:
        errors = [(x @ two.weight + two.bias - y) ** 2 for x, y in batch]
        return torch.stack(errors).sum(), 2 * len(batch)

    order = torch.randperm(len(DATA), generator=torch.Generator().manual_seed(0)).tolist()
    fours = [[DATA[i] for i in order[n : n + 4]] for n in range(0, len(order), 4)]
    single = TrainOptions(learning_rate=0.05, max_steps=3, precision="float32")
    fit(two.parameters, all_of_four, lambda _: fours, [], single, progress=False)
    assert one.values() == pytest.approx(two.values(), abs=1e-6)


def test_it_stops_early_and_returns_to_the_best() -> None:
    toy, seen = Toy(), {}

    def worsening(batch: Item) -> tuple[Tensor, int]:
        return -toy.loss(batch)[0], 2  # climbs away from the optimum

    def on_step(step: int, loss: float) -> None:
        seen[step] = toy.values()

    options = TrainOptions(learning_rate=0.1, max_steps=200, eval_every=2, patience=3)
    calls = [iter([5.0, 4.0, 4.5, 4.5, 4.1])]

    def loss_fn(batch: Item) -> tuple[Tensor, int]:
        if torch.is_grad_enabled():
            return worsening(batch)
        return torch.tensor(next(calls[0])), 1

    history = fit(
        toy.parameters, loss_fn, lambda _: DATA, [DATA[0]], options,
        progress=False, on_step=on_step,
    )  # fmt: skip
    assert history.stopped_early
    assert (history.steps, history.best_step, history.best_loss) == (10, 4, 4.0)
    assert toy.values() == seen[4]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_last_good_state(
    tmp_path: Path, bad: float
) -> None:
    toy, values = Toy(), {0: Toy().values()}

    def loss_fn(batch: Item) -> tuple[Tensor, int]:
        loss, count = toy.loss(batch)
        return (loss * bad if torch.is_grad_enabled() and len(values) == 10 else loss), count

    with pytest.raises(OnepassError, match=r"loss became .* at step 10 of 60"):
        fit(
            toy.parameters, loss_fn, lambda _: DATA, DATA[:4], OPTIONS, tmp_path, False,
            lambda step, loss: values.update({step: toy.values()}),
        )  # fmt: skip
    assert toy.values() == values[8]  # the last whose loss was finite: 9 is what gave it
    assert (tmp_path / STATE).is_file()


def test_a_gradient_that_is_not_finite_stops_before_it_does_harm() -> None:
    weight = nn.Parameter(torch.zeros(2))
    with pytest.raises(OnepassError, match="gradient norm became"):
        fit({"w": weight}, lambda _: (weight.sqrt().sum(), 1), lambda _: [0], [], OPTIONS,
            progress=False)  # fmt: skip
    assert weight.tolist() == [0.0, 0.0]


def test_nothing_to_train_on_is_refused() -> None:
    toy = Toy()
    with pytest.raises(OnepassError, match="no examples"):
        fit(toy.parameters, toy.loss, lambda _: [], [], OPTIONS)


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0.0), ("epochs", float("nan")), ("batch_size", 0), ("max_steps", 0),
     ("warmup_ratio", 1.0), ("clip", -1.0), ("precision", "int8"), ("patience", 0)],
)  # fmt: skip
def test_options_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(OnepassError, match=f"training option {name} is"):
        TrainOptions(**{name: value})
