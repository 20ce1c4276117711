"""The one training loop: AdamW, warm-up and cosine, accumulation, clipping, early stop, resuming.

It knows nothing of models: it is given parameters, and a function from a batch to its loss.
Everything it does follows from the options' seed and the step's number, so a training that was
killed and resumed gives the same parameters as one that was not.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from onepass.adapters.history import History
from onepass.core.errors import OnepassError
from onepass.model.precision import fast_bfloat16
from onepass.model.progress import progress_bar
from onepass.model.training.options import Precision, TrainOptions
from onepass.model.training.state import Best, load_state, save_state

B = TypeVar("B")
LossFunction = Callable[[B], tuple[Tensor, int]]
"""From a batch to the sum of its tokens' losses (a scalar) and the number of those tokens."""
OnStep = Callable[[int, float], None]
"""Called after each step with its number (from 1) and its mean loss; it must not run the model."""

__all__ = ["History", "LossFunction", "OnStep", "TrainOptions", "fit"]


def fit(
    parameters: Mapping[str, nn.Parameter],
    loss_fn: LossFunction[B],
    train_batches: Callable[[int], Sequence[B]],
    validation: Sequence[B],
    options: TrainOptions,
    state_dir: Path | str | None = None,
    progress: bool = True,
    on_step: OnStep | None = None,
    identity: Mapping[str, Any] | None = None,
    title: str = "training",
    parts: Callable[[B], Sequence[B]] = lambda batch: (batch,),
) -> History:
    """Train `parameters` in place and leave in them the best found, by validation loss.

    `train_batches(epoch)` returns an epoch's batches: always the same ones, and equally many in
    every epoch. `parts` divides a batch into smaller ones that are computed one after another: it
    takes less memory, and gives the same step. Without `validation` batches the last parameters are
    kept. With a `state_dir`, the state is saved there at every validation, on Ctrl-C (which still
    raises) and at the end; calling again with the same options and the same `identity` (JSON data:
    what is trained, and on what) resumes from there.

    A loss or gradient that is not finite raises an `OnepassError` naming the step, with the
    parameters set back to the last ones whose loss was finite.
    """
    training = _Training(dict(parameters), loss_fn, train_batches, validation, options, parts)
    folder = None if state_dir is None else Path(state_dir)
    described = {**asdict(options), **(identity or {})}

    def save() -> None:
        if folder is not None:
            training.history.seconds = before + time.perf_counter() - began
            save_state(
                folder, described, training.parameters, training.optimizer,
                training.best, training.history,
            )  # fmt: skip

    if folder is not None:
        resumed = load_state(folder, described, training.parameters, training.optimizer)
        if resumed is not None:
            training.resume(*resumed)
    history, began = training.history, time.perf_counter()
    before = history.seconds
    if not history.steps:
        save()  # a folder that cannot be written should be known before hours of work
    try:
        with progress_bar(title, training.total_steps, progress, history.steps) as update:
            while True:
                if training.evaluate_if_due():
                    save()
                if history.steps >= training.total_steps or history.stopped_early:
                    break
                loss = training.step()
                update(history.steps, f"loss {loss:.3f}, lr {training.rate:.1e}")
                if on_step:
                    on_step(history.steps, loss)
    except KeyboardInterrupt:
        save()
        raise
    if training.best:
        _copy(training.best, training.parameters)
    history.seconds = before + time.perf_counter() - began
    return history


class _Training(Generic[B]):
    """The state of a training: parameters, optimiser, best parameters, history."""

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        loss_fn: LossFunction[B],
        train_batches: Callable[[int], Sequence[B]],
        validation: Sequence[B],
        options: TrainOptions,
        parts: Callable[[B], Sequence[B]],
    ) -> None:
        if not parameters:
            raise OnepassError("there are no parameters to train")
        self.parameters = parameters
        self.loss_fn = loss_fn
        self.train_batches = train_batches
        self.validation = validation
        self.options = options
        self.parts = parts
        self.optimizer = torch.optim.AdamW(
            parameters.values(), lr=0.0, weight_decay=options.weight_decay, fused=True
        )
        self.history = History()
        self.best: Best = {}
        self._sound = {name: p.detach().clone() for name, p in parameters.items()}
        self._epoch, self._batches = 0, train_batches(0)
        if not self._batches:
            raise OnepassError("there are no examples to train on; give at least one")
        self.steps_per_epoch = math.ceil(len(self._batches) / options.accumulation)
        self.total_steps = options.max_steps or math.ceil(options.epochs * self.steps_per_epoch)
        self._autocast = _autocast(next(iter(parameters.values())).device, options.precision)

    def resume(self, best: Best, history: History) -> None:
        self.best, self.history = best, history
        _copy(self.parameters, self._sound)

    def step(self) -> float:
        """One optimiser step; the mean loss per target token before it."""
        self.optimizer.zero_grad(set_to_none=True)
        # Random numbers in the loss (dropout) depend on the step's number alone.
        torch.manual_seed(self.options.seed + self.history.steps)
        total, count = 0.0, 0
        for part in chain.from_iterable(map(self.parts, self._next_batches())):
            with self._autocast():
                summed, tokens = self.loss_fn(part)
            summed.backward()  # type: ignore[no-untyped-call]
            total, count = total + summed.item(), count + tokens
        loss = total / max(count, 1)
        if not math.isfinite(loss):
            _copy(self._sound, self.parameters)
            raise self._diverged("loss", loss)
        parameters = list(self.parameters.values())
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.div_(max(count, 1))
        norm = float(nn.utils.clip_grad_norm_(parameters, self.options.clip or math.inf))
        if not math.isfinite(norm):
            raise self._diverged("gradient norm", norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * self._schedule(self.history.steps)
        with _uninterrupted():
            _copy(self.parameters, self._sound)
            self.optimizer.step()
            self.history.steps += 1
            self.history.losses.append(loss)
        return loss

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def evaluate_if_due(self) -> bool:
        """Validate if it is due at this step; return whether the state should be saved."""
        step, every = self.history.steps, self.options.eval_every
        at_end = step >= self.total_steps
        if not (at_end or (step and every and step % every == 0)):
            return False
        if not self.validation or any(step == done for done, _ in self.history.validation):
            return True
        loss = self._evaluate()
        if not math.isfinite(loss):
            _copy(self.best or self._sound, self.parameters)
            raise self._diverged("validation loss", loss)
        with _uninterrupted():
            self.history.validation.append((step, loss))
            if self.history.best_loss is None or loss < self.history.best_loss:
                self.history.best_step, self.history.best_loss = step, loss
                self.best = {name: p.detach().clone() for name, p in self.parameters.items()}
            since_best = sum(1 for done, _ in self.history.validation if done > self._best_step())
            patience = self.options.patience
            self.history.stopped_early = (
                not at_end and patience is not None and since_best >= patience
            )
        return True

    def _best_step(self) -> int:
        return self.history.best_step or 0

    @torch.no_grad()
    def _evaluate(self) -> float:
        total, count = 0.0, 0
        for batch in self.validation:
            with self._autocast():
                summed, tokens = self.loss_fn(batch)
            total, count = total + summed.item(), count + tokens
        return total / max(count, 1)

    def _next_batches(self) -> Sequence[B]:
        epoch, index = divmod(self.history.steps, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self.train_batches(epoch)
        size = self.options.accumulation
        return self._batches[index * size : (index + 1) * size]

    def _schedule(self, step: int) -> float:
        """The share of the peak learning rate at a step (from 0): linear rise, cosine fall."""
        rise = max(1, round(self.options.warmup_ratio * self.total_steps))
        if step < rise:
            return (step + 1) / rise
        fall = (step - rise) / max(1, self.total_steps - rise)
        return 0.5 * (1.0 + math.cos(math.pi * fall))

    def _diverged(self, what: str, value: float) -> OnepassError:
        return OnepassError(
            f"the {what} became {value} at step {self.history.steps + 1} of {self.total_steps}; "
            "training stopped with the last good parameters; try a learning_rate below "
            f"{self.options.learning_rate:g}"
        )


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(source[name])


def lowered(device: torch.device, precision: Precision) -> bool:
    """Whether products are computed in bfloat16, by autocast."""
    return precision == "bfloat16" or (precision == "auto" and fast_bfloat16(device))


def _autocast(device: torch.device, precision: Precision) -> Callable[[], torch.autocast]:
    enabled = lowered(device, precision)
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=enabled)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block: half an optimiser step could not be resumed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pending:
        raise KeyboardInterrupt
