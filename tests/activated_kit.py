"""What activated passes compute, the long way round: everything anew, nothing kept."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.composition import Composition, Pass, Weighted, pass_bias, pass_delta
from onepass.model.activation import activation_of
from onepass.model.attach import Effect, add_lowrank, altered
from onepass.model.chat import prompt_ids
from onepass.model.load import Base
from onepass.tasks.book import parse_task
from onepass.tasks.prompt import build_prompt
from onepass.tasks.task import Task
from test_model_attach import random_calibration

BOTH = "summarize+translate:es"
TEXTS = [
    "Ana: Tea at five?\nBen: Yes!", "Cleo: [no]", "Dan: Shall we meet at the park, Eve, or not?",
]  # fmt: skip


def active(name: str) -> Task:
    return parse_task(name).activated()


def activated(adapter: Adapter, base: Base) -> Adapter:
    """The same numbers, acting from "[" on."""
    task = active("summarize")
    return replace(adapter, invocation=activation_of(base.tokenizer, task).invocation)


def after(starts: Sequence[int], effect: Effect) -> Effect:
    """The effect on each row of a batch from the token of that number on; none before."""

    def found(y: Tensor, x: Tensor) -> Tensor:
        places = torch.arange(y.shape[1])
        acts = places >= torch.tensor(starts)[:, None]
        return torch.where(acts[..., None], effect(y, x), y)

    return found


def effects_of(base: Base, pass_: Pass) -> dict[str, Effect]:
    """What a pass adds to each layer, beside its weights: by the factors of ΔW, and the bias."""
    deltas, biases = pass_delta(pass_, base.shape), pass_bias(pass_, base.shape)

    def effect(path: str) -> Effect:
        lora = deltas.get(path)
        bias = biases.get(path)

        def added(y: Tensor, x: Tensor) -> Tensor:
            y = y if lora is None else add_lowrank(y, x, lora.down, lora.up)
            return y if bias is None else y + bias

        return added

    return {path: effect(path) for path in {*deltas, *biases}}


@contextmanager
def acting_after(base: Base, pass_: Pass, starts: Sequence[int]) -> Iterator[None]:
    """The base with the pass on the tokens from `starts` on."""
    effects = {path: after(starts, each) for path, each in effects_of(base, pass_).items()}
    with altered(base, effects):
        yield


def prompt_of(base: Base, task: Task, text: str) -> tuple[list[int], int]:
    """The ids of a task's prompt, and where its adapters begin to act: 0 for ordinary ones."""
    (ids,) = prompt_ids(base.tokenizer, [build_prompt(task, text)], task.system)
    return ids, activation_of(base.tokenizer, task).start(ids) if task.activate else 0


@torch.no_grad()
def log_probabilities(base: Base, pass_: Pass, ids: list[int], start: int) -> Tensor:
    """(vocabulary,): of the token after `ids`, with the pass on those from `start` on."""
    with acting_after(base, pass_, [start]):
        logits: Tensor = base.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return logits.double().log_softmax(-1)


def greedy(base: Base, pass_: Pass, text: str, count: int) -> list[int]:
    """The first `count` greedy tokens, each by a whole forward pass; fewer if the answer ends."""
    ids, start = prompt_of(base, pass_.task, text)
    answer: list[int] = []
    while len(answer) < count and not set(answer) & base.stop_ids:
        answer.append(int(log_probabilities(base, pass_, [*ids, *answer], start).argmax()))
    return answer


def pair_on(base: Base) -> list[Adapter]:
    """Two random activated adapters of rank 4 on all layers."""

    def made(name: str, seed: int) -> Adapter:
        random = torch.Generator().manual_seed(seed)
        modules = {
            path: Lora(
                torch.randn(4, in_, generator=random) * 0.3,
                torch.randn(out, 4, generator=random) * 0.3,
            )
            for path, (out, in_) in base.shape.modules.items()
        }
        return activated(Adapter(name, modules, base.name), base)

    return [made("summarize", 0), made("translate:es", 1)]


def pass_on(base: Base, form: str = "lowrank", task: str = BOTH) -> Pass:
    """A pass with both adapters and a random calibration."""
    one, two = pair_on(base)
    weighted = (Weighted(one, 0.5), Weighted(two, 0.7))
    return Pass(active(task), weighted, random_calibration(base, form))


def composed(base: Base, *passes: Pass) -> Composition:
    return Composition(base.shape, active(BOTH), passes, "test")
