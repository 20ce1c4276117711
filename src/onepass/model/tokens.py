"""From prompts and targets to token ids, and from those to batches.

Training pads on the right and gives no attention mask: a causal model never looks ahead to the
padding, and without a mask attention takes its fastest path.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onepass.core.errors import OnepassError
from onepass.model.activation import activation_of
from onepass.model.chat import prompt_ids, text_ids
from onepass.model.load import Base
from onepass.model.loss import CHUNK, frozen_head, head_inputs, head_loss
from onepass.model.reading import Read, beginning
from onepass.tasks.example import Example
from onepass.tasks.prompt import Fitted, Shots, build_prompt, fit_prompt
from onepass.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IGNORE = -100
"""The label of a token that bears no loss, as in torch and transformers."""

_POOL = 32  # batches sorted by length together: little padding, yet ever new company


@dataclass(frozen=True)
class Encoded:
    """Token `ids` of a prompt and its target; the target begins at `start`.

    The first `bare` tokens are left to the bare base (of an activated task), which has `read` them.
    """

    ids: list[int]
    start: int
    bare: int = 0
    read: Read | None = field(default=None, repr=False, compare=False)

    @property
    def labels(self) -> list[int]:
        """As long as `ids`: the target's tokens, `IGNORE` over the prompt."""
        return [IGNORE] * self.start + self.ids[self.start :]

    @property
    def run(self) -> int:
        """How many tokens go through the model with the adapters on."""
        return len(self.ids) - self.bare

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """Ids and labels, both int64 of shape (batch, longest), and what was read before them."""

    ids: Tensor
    labels: Tensor
    reads: tuple[Read, ...] = ()

    def inputs(self, model: "PreTrainedModel") -> dict[str, Any]:
        """What the model is called with, but for which logits it is to compute."""
        found: dict[str, Any] = {"input_ids": self.ids, "use_cache": False}
        if self.reads:
            cache, mask = beginning(self.reads, model)
            positions = mask.sum(1, keepdim=True) + torch.arange(self.ids.shape[1]).to(mask)
            mask = torch.cat([mask, mask.new_ones(self.ids.shape)], 1)
            found |= {"cache": cache, "attention_mask": mask, "position_ids": positions}
        return found


def encode(base: Base, prompt: str, target: str | None = None) -> Encoded:
    """The chat prompt's ids, followed by the target's and the end of turn when there is one."""
    ids = prompt_ids(base.tokenizer, [prompt])[0]
    if target is None:
        return Encoded(ids, len(ids))
    return Encoded([*ids, *text_ids(base.tokenizer, [target])[0], base.end_id], len(ids))


def encode_examples(
    base: Base,
    task: Task,
    examples: Sequence[Example],
    shots: Shots = (),
    max_tokens: int | None = None,
) -> list[Encoded]:
    """Each example's prompt and first target, within `max_tokens` (default: the base's context).

    A prompt too long loses its oldest turns, never its instruction. A target is never cut: one
    that leaves no room for the instruction is an `OnepassError` naming the example.
    """
    limit = min(max_tokens or base.context, base.context)
    activation = activation_of(base.tokenizer, task) if task.activate else None
    answers = text_ids(base.tokenizer, [example.target for example in examples])
    prompts = [build_prompt(task, example.input, shots) for example in examples]
    encoded = []
    for example, ids, answer in zip(
        examples, prompt_ids(base.tokenizer, prompts, task.system), answers, strict=True
    ):
        room = limit - len(answer) - 1
        if len(ids) > room:
            try:
                fitted = _fit(base, task, example.input, room, shots)
            except OnepassError as error:
                raise OnepassError(
                    f"example {example.id!r}: with a target of {len(answer)} tokens, {error}"
                ) from error
            ids = prompt_ids(base.tokenizer, [fitted.prompt], task.system)[0]
        bare = activation.start(ids) if activation else 0
        encoded.append(Encoded([*ids, *answer, base.end_id], len(ids), bare))
    return encoded


def read_ahead(
    base: Base,
    rows: Sequence[Encoded],
    low: torch.dtype | None = None,
    bare: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[Encoded]:
    """The rows of an activated task with their texts read; others as they are.

    low: the dtype that products are computed in by autocast, if they are. bare: makes the base
    bare, which is used if some text has not been read yet. Raises as `Readings.read`.
    """
    texts = [row.ids[: row.bare] for row in rows if row.bare]
    if not texts:
        return list(rows)
    base.readings.check_length(max(map(len, rows)))
    with bare() if base.readings.lacks(texts, low) else nullcontext():
        reads = iter(base.readings.read(texts, low))
    return [replace(row, read=next(reads)) if row.bare else row for row in rows]


def fit_prompts(
    base: Base, task: Task, texts: Sequence[str], max_new_tokens: int, shots: Shots = ()
) -> list[Fitted]:
    """The prompt of each text, so short that `max_new_tokens` still fit in the base's context."""
    room = base.context - max_new_tokens
    if room < 1:
        raise OnepassError(
            f"max_new_tokens is {max_new_tokens}, but the context of {base.name} is "
            f"{base.context} tokens; allow fewer"
        )
    prompts = [build_prompt(task, text, shots) for text in texts]
    return [
        Fitted(prompt) if len(ids) <= room else _fit(base, task, text, room, shots)
        for prompt, text, ids in zip(
            prompts, texts, prompt_ids(base.tokenizer, prompts, task.system), strict=True
        )
    ]


def _fit(base: Base, task: Task, text: str, room: int, shots: Shots) -> Fitted:
    def count(prompt: str) -> int:
        return len(prompt_ids(base.tokenizer, [prompt], task.system)[0])

    return fit_prompt(task, text, count, room, shots)


def collate(batch: Sequence[Encoded], pad_id: int, device: torch.device) -> Batch:
    """The rows side by side, padded on the right, but for what was read of them."""
    left = [(row.ids[len(row.read or ()) :], row.labels[len(row.read or ()) :]) for row in batch]
    longest = max(len(ids) for ids, _ in left)
    ids = [ids + [pad_id] * (longest - len(ids)) for ids, _ in left]
    labels = [labels + [IGNORE] * (longest - len(labels)) for _, labels in left]
    reads = tuple(row.read for row in batch if row.read)
    return Batch(torch.tensor(ids, device=device), torch.tensor(labels, device=device), reads)


def target_logits(model: "PreTrainedModel", batch: Batch) -> Tensor:
    """The logits (tokens, vocabulary), float32, of the predictions whose token has a label.

    They are computed nowhere else: with a real vocabulary they cost as much as the model itself.
    """
    kept = _predicting(batch.labels)
    if _spread(model):
        # Of a balanced base the last layer is not where its inputs, this mask among them, are put.
        last = batch.ids.shape[1] - int(kept.any(0).nonzero()[0])
        logits = model(**batch.inputs(model), logits_to_keep=last).logits
        logits = logits[kept[:, -last:]]
    else:
        logits = model(**batch.inputs(model), logits_to_keep=kept).logits
    found: Tensor = logits.float()
    return found


def target_loss(model: "PreTrainedModel", batch: Batch) -> tuple[Tensor, int]:
    """The summed cross-entropy (nats) over the labelled tokens, and their number.

    The sum, with the number, lets batches of any make-up be averaged exactly.
    """
    wanted = batch.labels[:, 1:]
    targets = wanted[wanted != IGNORE]
    count = targets.numel()
    # Where all logits are few, autograd does as well; on several devices, it has no rival.
    if count * model.config.get_text_config().vocab_size > CHUNK and not _spread(model):
        head = frozen_head(model, batch.ids)
        if head is not None:
            inputs = head_inputs(model, head, batch.inputs(model), _predicting(batch.labels))
            return head_loss(head, inputs, targets), count
    logits = target_logits(model, batch)
    return F.cross_entropy(logits, targets, reduction="sum"), count


def _predicting(labels: Tensor) -> Tensor:
    """Where a token with a label is predicted, as a mask: one position before that token."""
    return F.pad(labels[:, 1:] != IGNORE, (0, 1))


def _spread(model: "PreTrainedModel") -> bool:
    """Whether the model is balanced over several devices."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


def shuffled_batches(encoded: Sequence[Encoded], batch_size: int, seed: str) -> list[list[Encoded]]:
    """Every item once, in random batches of items of similar length, in random order.

    The same `seed` gives the same batches on any machine.
    """
    rng = random.Random(seed)
    order = rng.sample(range(len(encoded)), len(encoded))
    pool = batch_size * _POOL
    batches = []
    for first in range(0, len(order), pool):
        similar = sorted(order[first : first + pool], key=lambda i: len(encoded[i]))
        batches += [similar[i : i + batch_size] for i in range(0, len(similar), batch_size)]
    rng.shuffle(batches)
    return [[encoded[i] for i in batch] for batch in batches]


def split_batch(batch: list[Encoded], most: int) -> list[list[Encoded]]:
    """The batch in parts of at most `most` tokens to run, padding included, or of one item."""
    if len(batch) * max(row.run for row in batch) <= most:
        return [batch]
    parts: list[list[Encoded]] = []
    for row in sorted(batch, key=lambda row: row.run, reverse=True):
        if parts and (len(parts[-1]) + 1) * parts[-1][0].run <= most:
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def mixed_batches(
    sets: Sequence[Sequence[Encoded]], batch_size: int, seed: str
) -> list[tuple[int, list[Encoded]]]:
    """The shuffled batches of several sets, each with the number of its set, in random order."""
    batches = [
        (number, batch)
        for number, some in enumerate(sets)
        for batch in shuffled_batches(some, batch_size, f"{seed}/{number}")
    ]
    random.Random(seed).shuffle(batches)
    return batches


def sorted_batches(encoded: Sequence[Encoded], batch_size: int) -> list[list[Encoded]]:
    """Every item once, longest first, so that padding is least; for evaluation."""
    rows = sorted(encoded, key=len, reverse=True)
    return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
