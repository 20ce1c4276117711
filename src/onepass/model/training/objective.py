"""What adapters and calibrations are both trained to do: predict the target tokens."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from onepass.adapters.composition import Pass
from onepass.adapters.history import History
from onepass.model.attach import merged
from onepass.model.frozen import rounded
from onepass.model.load import Base
from onepass.model.tokens import (
    Encoded,
    collate,
    encode_examples,
    read_ahead,
    sorted_batches,
    split_batch,
    target_loss,
)
from onepass.model.training.fit import LossFunction, lowered
from onepass.model.training.options import TrainOptions
from onepass.tasks.example import Example

_BATCH = 16
_KEPT = 1 << 26  # numbers that all layers give for a part of a batch: about 0.5 GB is kept of them


def batch_parts(base: Base) -> Callable[[list[Encoded]], list[list[Encoded]]]:
    """What `fit` divides a batch by: on a CPU, smaller products are as fast, and take less memory.

    What is kept of a token for the way back goes with what the layers give for it.
    """
    if base.device.type != "cpu":
        return lambda batch: [batch]
    most = _KEPT // sum(out for out, _ in base.shape.modules.values())
    return lambda batch: split_batch(batch, most)


def low_dtype(base: Base, options: TrainOptions) -> torch.dtype | None:
    """The dtype of a training's products, where it is not the base's own."""
    return torch.bfloat16 if lowered(base.device, options.precision) else None


def low_weights(
    base: Base, options: TrainOptions, paths: Iterable[str] = ()
) -> AbstractContextManager[None]:
    """The frozen output layer, and those at `paths`, in the dtype of a training's products."""
    low = low_dtype(base, options)
    if low is None:
        return nullcontext()
    found = [base.model.get_output_embeddings(), *map(base.model.get_submodule, paths)]
    layers = [getattr(layer, "base_layer", layer) for layer in found]  # PEFT wraps them
    return rounded([layer for layer in layers if type(layer) is nn.Linear], low)


def batch_loss(
    base: Base,
    low: torch.dtype | None = None,
    bare: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> LossFunction[Sequence[Encoded]]:
    """The loss function of `fit` for batches of encoded examples, on the base as it stands.

    low, bare: as of `read_ahead`, for the texts of activated tasks.
    """

    return lambda batch: rows_loss(base, read_ahead(base, batch, low, bare))


def rows_loss(base: Base, rows: Sequence[Encoded]) -> tuple[Tensor, int]:
    """The summed loss of rows whose texts are read, and the number of their target tokens."""
    return target_loss(base.model, collate(rows, base.pad_id, base.device))


@torch.no_grad()
def mean_loss(base: Base, pass_: Pass, examples: Sequence[Example]) -> float:
    """The mean loss (nats per target token) of a pass of a composition on examples of its task."""
    rows = encode_examples(base, pass_.task, examples, pass_.shots)
    total, count = 0.0, 0
    for batch in sorted_batches(rows, _BATCH):
        ready = read_ahead(base, batch)  # by the bare base
        with merged(base, pass_):
            summed, tokens = rows_loss(base, ready)
        total, count = total + float(summed), count + tokens
    return total / max(count, 1)


def fingerprint(*sets: Sequence[Encoded]) -> str:
    """A short hash of encoded data, by which a saved state knows its own."""
    digest = hashlib.sha256()
    for rows in sets:
        digest.update(array("q", [len(rows)]).tobytes())
        for row in rows:
            acts = [row.bare] if row.bare else []  # the same ids may be read by another
            digest.update(array("q", [row.start, len(row), *row.ids, *acts]).tobytes())
    return digest.hexdigest()[:16]


def training_card(options: TrainOptions, history: History) -> dict[str, Any]:
    """What a card keeps of a training: enough to repeat it and to judge it by."""
    return {
        "options": asdict(options),
        "steps": history.steps,
        "best_step": history.best_step,
        "validation_loss": history.best_loss,
        "stopped_early": history.stopped_early,
        "seconds": round(history.seconds, 1),
    }
