"""Batched greedy decoding with a key-value cache.

Prompts of similar length share a batch, padded on the left; a row leaves the batch when it is
done. In float32 the texts do not depend on the batch size, save for ties within rounding.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from onepass.adapters.composition import Composition, Pass, check_base
from onepass.core.errors import OnepassError, OnepassWarning
from onepass.model.activation import Activation, activation_of
from onepass.model.attach import merged
from onepass.model.chat import prompt_ids
from onepass.model.check import not_finite
from onepass.model.frozen import frozen
from onepass.model.load import Base
from onepass.model.reading import Read, beginning, turn_of
from onepass.model.tokens import fit_prompts

Progress = Callable[[int], None]
"""Called with the number of prompts just finished."""
Watch = Callable[[Sequence[int]], None]
"""Called at each step with the new token of each row that goes on; what it raises ends them all."""


@dataclass(frozen=True)
class Generated:
    """The `texts` in the order of their prompts, and what they took."""

    texts: list[str]
    tokens: int
    """Tokens generated, the end of turn included."""
    seconds: float
    notices: list[str]
    """Per text, what was left out of its prompt to make it fit, and what a server said of its
    answer; "" where nothing was."""
    failed: int = 0
    """Texts that a server gave no answer for; their notices say why."""
    prompt_tokens: int = 0
    """Tokens of all prompts; 0 if unknown."""

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def generate(
    base: Base,
    prompts: Sequence[str],
    max_new_tokens: int = 128,
    batch_size: int = 64,
    progress: Progress | None = None,
    system: str = "",
) -> Generated:
    """The base's greedy answer to each user message, to its end or `max_new_tokens`.

    Raises `OnepassError` for a prompt that leaves no room for them in the context.
    """
    encoded = prompt_ids(base.tokenizer, prompts, system)
    return _generate(base, encoded, max_new_tokens, batch_size, progress)


def _generate(
    base: Base,
    encoded: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int,
    progress: Progress | None,
    active: "_Active | None" = None,
    watch: Watch | None = None,
) -> Generated:
    if max_new_tokens < 1 or batch_size < 1:
        raise OnepassError(
            f"max_new_tokens is {max_new_tokens} and batch_size {batch_size}; both must be positive"
        )
    began = time.perf_counter()
    for number, ids in enumerate(encoded, start=1):
        if len(ids) + max_new_tokens > base.context:
            raise OnepassError(
                f"prompt {number} has {len(ids)} tokens; with max_new_tokens {max_new_tokens} that "
                f"exceeds the context of {base.name}, {base.context}; shorten one of them"
            )
    # Longest first: if memory is short, that shows at once.
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]), reverse=True)
    answers: list[list[int]] = [[] for _ in encoded]
    turn = turn_of(base.model)
    for rows in _batches(order, list(map(len, encoded)), max_new_tokens, batch_size, turn):
        prompts = [encoded[i] for i in rows]
        if active:
            some = active.decode(base, prompts, max_new_tokens, progress, watch)
        else:
            some = _decode(base, prompts, max_new_tokens, progress, watch=watch)
        for row, answer in zip(rows, some, strict=True):
            answers[row] = answer
    kept = [a[:-1] if a and a[-1] in base.stop_ids else a for a in answers]
    texts = base.tokenizer.batch_decode(
        kept, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return Generated(
        [text.strip() for text in texts],
        sum(map(len, answers)),
        time.perf_counter() - began,
        [""] * len(encoded),
        prompt_tokens=sum(map(len, encoded)),
    )


def continued(
    base: Base, ids: list[int], max_new_tokens: int, watch: Watch | None = None
) -> Generated:
    """The base's greedy continuation of the ids of a prompt, to its end or `max_new_tokens`."""
    return _generate(base, [ids], max_new_tokens, 1, None, watch=watch)


def run(
    base: Base,
    composition: Composition,
    texts: Sequence[str],
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Generated:
    """Do the composition's task to each raw input text.

    Each pass builds its prompts from what the pass before gave. `max_new_tokens` of a pass defaults
    to its task's, or else 128. A text too long for the context loses its oldest turns,
    as its notice says. `progress` counts each text once per pass, and
    `watch` sees the tokens of all of them.
    """
    check_base(composition, base.shape)
    began = time.perf_counter()
    current = list(texts)
    tokens = read = 0
    notices: list[list[str]] = [[] for _ in texts]
    for pass_ in composition.passes:
        longest = pass_.task.longest(max_new_tokens)
        fitted = fit_prompts(base, pass_.task, current, longest, pass_.shots)
        for notes, prompt in zip(notices, fitted, strict=True):
            notes += [prompt.notice] if prompt.notice else []
        prompts = prompt_ids(base.tokenizer, [each.prompt for each in fitted], pass_.task.system)
        if pass_.task.activate:
            active = _Active(pass_, activation_of(base.tokenizer, pass_.task))
            _warn_of_others(base, active)
            done = _generate(base, prompts, longest, batch_size, progress, active, watch)
        else:
            with merged(base, pass_):
                done = _generate(base, prompts, longest, batch_size, progress, watch=watch)
        current, tokens, read = done.texts, tokens + done.tokens, read + done.prompt_tokens
    seconds = time.perf_counter() - began
    said = ["; ".join(notes) for notes in notices]
    return Generated(current, tokens, seconds, said, prompt_tokens=read)


@dataclass(frozen=True)
class _Active:
    """A pass that acts from its invocation on; what stands before is read by the bare base."""

    pass_: Pass
    activation: Activation

    def decode(
        self,
        base: Base,
        rows: list[list[int]],
        max_new_tokens: int,
        progress: Progress | None,
        watch: Watch | None,
    ) -> list[list[int]]:
        starts = [self.activation.start(row) for row in rows]
        base.readings.check_length(max(map(len, rows)) + max_new_tokens)
        texts = [row[:start] for row, start in zip(rows, starts, strict=True)]
        reads = base.readings.read(texts)
        left = [row[start:] for row, start in zip(rows, starts, strict=True)]
        with merged(base, self.pass_):
            return _decode(base, left, max_new_tokens, progress, reads, watch)


def _warn_of_others(base: Base, active: _Active) -> None:
    """Warn of adapters that were trained to act from other words than the task says."""
    task, wanted = active.pass_.task, active.activation.invocation
    for adapter in (weighted.adapter for weighted in active.pass_.adapters):
        if adapter.invocation != wanted:
            warnings.warn(
                f"adapter {adapter.name} was trained to act from "
                f"{base.tokenizer.decode(list(adapter.invocation))!r} on, and acts from "
                f"{task.activate!r} on here, as task {task.name} says",
                OnepassWarning,
                stacklevel=2,
            )


def _batches(
    order: Sequence[int], lengths: Sequence[int], longest: int, size: int, turn: int | None
) -> Iterator[list[int]]:
    """The rows in `order`, at most `size` at a time; those that will pass the `turn` are alone."""

    def side(row: int) -> int:
        if turn is None or lengths[row] > turn:
            return -1
        return -2 if lengths[row] + longest <= turn else row

    for _, same in groupby(order, side):
        rows = list(same)
        yield from (rows[i : i + size] for i in range(0, len(rows), size))


def _decode(
    base: Base,
    rows: list[list[int]],
    max_new_tokens: int,
    progress: Progress | None,
    reads: Sequence[Read] = (),
    watch: Watch | None = None,
) -> list[list[int]]:
    """The new tokens of each row of prompt ids, a final stop token included.

    reads: of each row what was read before it.
    """
    with frozen(base.model), torch.inference_mode():
        return _greedy(base, rows, max_new_tokens, progress, reads, watch)


def _greedy(
    base: Base,
    rows: list[list[int]],
    max_new_tokens: int,
    progress: Progress | None,
    reads: Sequence[Read],
    watch: Watch | None,
) -> list[list[int]]:
    ids, mask, positions = _padded(base, rows)
    stops = torch.tensor(sorted(base.stop_ids), device=base.device)
    answers: list[list[int]] = [[] for _ in rows]
    alive = list(range(len(rows)))
    cache, turn = None, turn_of(base.model)
    if reads:
        cache, before = beginning(reads, base.model)
        mask, positions = torch.cat([before, mask], 1), positions + before.sum(1, keepdim=True)
    for _ in range(max_new_tokens):
        if len(rows) == 1 and len(rows[0]) + len(answers[0]) - 1 == turn:
            cache = None
            ids, mask, positions = _padded(base, [rows[0] + answers[0]])
        out = base.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
            # By its index, which copies what a slice would leave strided: in bfloat16 torch then
            # copies the output layer for every row of the batch, gigabytes at real vocabularies.
            logits_to_keep=torch.tensor([ids.shape[1] - 1]),
        )
        cache = out.cache
        highest, chosen = out.logits[:, -1].max(-1)
        if not highest.isfinite().all():  # NaN is the highest of all
            raise not_finite(base.name, base.model.dtype, "what was put on it is too large")
        tokens = chosen.tolist()
        for row, token in zip(alive, tokens, strict=True):
            answers[row].append(token)
        if watch:
            watch(tokens)
        going = ~torch.isin(chosen, stops)
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
        ids = chosen[:, None]
        if not going.all():
            kept = going.nonzero()[:, 0]
            if progress:
                progress(len(alive) - len(kept))
            alive = [alive[i] for i in kept.tolist()]
            if not alive:
                return answers
            ids, mask, positions = ids[kept], mask[kept], positions[kept]
            # Made for beams, this also keeps a part of the rows, in every kind of layer: attention,
            # convolution and recurrence, each on its own device.
            cache.reorder_cache(kept)
    if progress:
        progress(len(alive))
    return answers


def _padded(base: Base, rows: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask (1 = token) and positions of rows padded on the left, each (batch, longest)."""
    longest = max(map(len, rows))
    ids = [[base.pad_id] * (longest - len(row)) + row for row in rows]
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return (
        torch.tensor(ids, device=base.device), mask.to(base.device), positions.to(base.device),
    )  # fmt: skip
