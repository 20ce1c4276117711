"""Learning how much of each adapter goes through each input column: ZipLoRA and DAM.

ΔW = Σ ΔW_i diag(m_i): one number per adapter, module and input, learnt so that the merge gives on
each adapter's own data what that adapter gives. No targets are needed, only inputs: the adapters
themselves are the teachers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onepass.adapters.activation import common_invocation
from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.shape import check_adapter
from onepass.core.errors import OnepassError
from onepass.model.attach import Effect, add_lowrank, altered
from onepass.model.load import Base
from onepass.model.tokens import (
    Encoded,
    collate,
    encode_examples,
    mixed_batches,
    read_ahead,
    target_logits,
)
from onepass.model.training.fit import fit
from onepass.model.training.objective import fingerprint, low_dtype, training_card
from onepass.model.training.options import TrainOptions
from onepass.tasks.example import Example
from onepass.tasks.task import Task

Batch = tuple[int, Sequence[Encoded]]
"""A batch of the data of the adapter of that number."""
Distance = Callable[[Tensor, Tensor], Tensor]
"""From the logits of the merge and of the teacher, (tokens, vocabulary), to a sum over tokens."""
Penalty = Callable[[Tensor, Tensor], Tensor]
"""From two adapters' columns of one module, (in,), to how much they get in each other's way."""


def squared_error(merged: Tensor, teacher: Tensor) -> Tensor:
    """ZipLoRA: the mean over the vocabulary of the squared differences of logits."""
    return (merged - teacher).square().mean(-1).sum()


def divergence(merged: Tensor, teacher: Tensor) -> Tensor:
    """DAM: KL(teacher ‖ merge), in nats."""
    target, found = F.log_softmax(teacher, -1), F.log_softmax(merged, -1)
    return F.kl_div(found, target, reduction="sum", log_target=True)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """ZipLoRA: columns that both adapters use."""
    return (one * other).abs().mean()


def similarity(one: Tensor, other: Tensor) -> Tensor:
    """DAM: the cosine of the two."""
    return F.cosine_similarity(one, other, dim=0)


@dataclass(frozen=True)
class Rule:
    """How ZipLoRA and DAM differ. start: of every column; weight: of the penalty."""

    start: float
    distance: Distance
    penalty: Penalty
    weight: float = 0.01


def train_columns(
    base: Base,
    adapters: Sequence[Adapter],
    tasks: Sequence[Task],
    examples: Sequence[Sequence[Example]],
    rule: Rule,
    options: TrainOptions,
    state_dir: Path | str | None = None,
    progress: bool = True,
) -> Adapter:
    """The merged adapter, of rank Σ r_i, with the learnt columns folded into `down`.

    Adapter i does `tasks[i]`, and `examples[i]` are of that task: inputs, with the adapter's own
    outputs as targets. State, resuming and errors are those of `fit`.
    """
    for adapter, some in zip(adapters, examples, strict=True):
        check_adapter(adapter, base.shape)
        if not some:
            raise OnepassError(f"there is no data for adapter {adapter.name!r} to learn columns on")
    pairs = zip(tasks, examples, strict=True)
    rows = [encode_examples(base, task, some, (), options.max_tokens) for task, some in pairs]
    columns = {
        f"{number}/{module}": nn.Parameter(
            torch.full(
                (lora.shape[1],), rule.start, device=base.model.get_submodule(module).weight.device
            )
        )
        for number, adapter in enumerate(adapters)
        for module, lora in adapter.modules.items()
    }
    low, mixture = low_dtype(base, options), _Mixture(base, adapters, columns)

    def loss(batch: Batch) -> tuple[Tensor, int]:
        number, some = batch
        rows = read_ahead(base, some, low)
        ready = collate(rows, base.pad_id, base.device)
        with torch.no_grad(), altered(base, mixture.teacher(number)):
            wanted = target_logits(base.model, ready)
        with altered(base, mixture.student()):
            found = target_logits(base.model, ready)
        tokens = wanted.shape[0]
        return rule.distance(found, wanted) + tokens * rule.weight * _conflict(
            rule.penalty, columns, adapters, wanted.device
        ), tokens

    def batches(epoch: int) -> Sequence[Batch]:
        return mixed_batches(rows, options.batch_size, f"{options.seed}/{epoch}")

    identity = {"trains": "columns", "base": base.identity, "data": fingerprint(*rows)}
    history = fit(columns, loss, batches, [], options, state_dir, progress, identity=identity)
    names = [adapter.name for adapter in adapters]
    card = {**training_card(options, history), "adapters": names}
    return Adapter(
        f"columns({', '.join(names)})",
        mixture.folded(),
        adapters[0].base,
        card,
        history=history,
        invocation=common_invocation(adapters),
    )


def _conflict(
    penalty: Penalty,
    columns: Mapping[str, Tensor],
    adapters: Sequence[Adapter],
    device: torch.device,
) -> Tensor:
    """The mean penalty over modules and pairs of adapters."""
    found = [
        penalty(columns[f"{i}/{module}"], columns[f"{j}/{module}"]).to(device)
        for (i, one), (j, other) in combinations(enumerate(adapters), 2)
        for module in one.modules
        if module in other.modules
    ]
    return torch.stack(found).mean() if found else torch.zeros(())


class _Mixture:
    """The adapters on the base: one of them alone, or all of them through their columns."""

    def __init__(
        self, base: Base, adapters: Sequence[Adapter], columns: Mapping[str, Tensor]
    ) -> None:
        self._columns = columns
        self._loras: dict[str, list[tuple[int, Lora]]] = {}
        for number, adapter in enumerate(adapters):
            for module, lora in adapter.modules.items():
                device = base.model.get_submodule(module).weight.device
                here = Lora(lora.down.to(device, torch.float32), lora.up.to(device, torch.float32))
                self._loras.setdefault(module, []).append((number, here))
        self._ups = {
            module: torch.cat([lora.up for _, lora in loras], 1)
            for module, loras in self._loras.items()
        }

    def teacher(self, number: int) -> dict[str, Effect]:
        return {
            module: self._effect(lora.down, lora.up)
            for module, loras in self._loras.items()
            for found, lora in loras
            if found == number
        }

    def student(self) -> dict[str, Effect]:
        return {module: self._effect(*self._factors(module)) for module in self._loras}

    def folded(self) -> dict[str, Lora]:
        modules = {}
        for module in self._loras:
            down, up = self._factors(module)
            modules[module] = Lora(down.detach().cpu(), up.detach().cpu())
        return modules

    def _factors(self, module: str) -> tuple[Tensor, Tensor]:
        """(Σr, in) with the columns in it, and (out, Σr)."""
        loras = self._loras[module]
        downs = [lora.down * self._columns[f"{number}/{module}"] for number, lora in loras]
        return torch.cat(downs), self._ups[module]

    @staticmethod
    def _effect(down: Tensor, up: Tensor) -> Effect:
        return lambda y, x: add_lowrank(y, x, down, up)
