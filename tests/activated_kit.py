"""What activated passes compute, the long way round: everything anew, nothing kept."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.composition import Composition, Pass, Weighted, pass_bias, pass_delta
from onepass.model.activation import activation_of
from onepass.model.attach import Effect, altered
from onepass.model.chat import prompt_ids
from onepass.model.load import Base
from onepass.tasks.book import parse_task
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
    """What a pass adds to each layer, by the dense ΔW and bias."""
    deltas, biases = pass_delta(pass_, base.shape), pass_bias(pass_, base.shape)

    def effect(path: str) -> Effect:
        delta = deltas[path].delta() if path in deltas else None
        bias = biases.get(path)

        def added(y: Tensor, x: Tensor) -> Tensor:
            y = y if delta is None else y + x @ delta.t()
            return y if bias is None else y + bias

        return added

    return {path: effect(path) for path in {*deltas, *biases}}


@contextmanager
def acting_after(base: Base, pass_: Pass, starts: Sequence[int]) -> Iterator[None]:
    """The base with the pass on the tokens from `starts` on."""
    effects = {path: after(starts, each) for path, each in effects_of(base, pass_).items()}
    with altered(base, effects):
        yield


@torch.no_grad()
def greedy(base: Base, pass_: Pass, text: str, count: int) -> list[int]:
    """The first `count` greedy tokens, each by a whole forward pass; fewer if the answer ends."""
    (ids,) = prompt_ids(base.tokenizer, [pass_.task.message(text)], pass_.task.system)
    start = activation_of(base.tokenizer, pass_.task).start(ids)
    answer: list[int] = []
    with acting_after(base, pass_, [start]):
        while len(answer) < count and not (answer and answer[-1] in base.stop_ids):
            logits = base.model(input_ids=torch.tensor([[*ids, *answer]]), use_cache=False).logits
            answer.append(int(logits[0, -1].argmax()))
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
