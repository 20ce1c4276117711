"""Test vectors: what PyTorch says on the very numbers a device set stores, for the engine to match.

The base's weights and the adapters' factors are rounded to what their files hold, so that what is
left between the two is arithmetic: an engine multiplies in the precision of the file, with 16-bit
or (for quantised weights) 8-bit activations.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import torch

from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.adapters.shape import BaseShape
from onepass.export.gguf.adapter import as_stored, calibration_adapter
from onepass.export.manifest import SAMPLE, TOKENS, Vector
from onepass.model.activation import activation_of
from onepass.model.attach import attached
from onepass.model.chat import prompt_ids
from onepass.model.load import Base
from onepass.model.tokens import fit_prompts

Stored = Callable[[], Iterable[tuple[str, torch.Tensor]]]
"""Gives the path of a weight and its numbers, one by one."""
LIKELY = -5.0  # natural logarithm: tokens less likely than this are noise


def make_vectors(
    base: Base,
    compositions: Mapping[str, Composition],
    stored: Stored,
    adapter_type: str,
    allowed: float,
) -> list[Vector]:
    """A vector for each composition: its first pass on a short conversation.

    stored: what the base's file holds of its weights. allowed: the vectors' tolerance.
    """
    with _as_stored(base, stored):
        return [
            _vector(base, name, _rounded(composition.passes[0], base.shape, adapter_type), allowed)
            for name, composition in compositions.items()
        ]


@torch.inference_mode()
def _vector(base: Base, name: str, pass_: Pass, allowed: float) -> Vector:
    (fitted,) = fit_prompts(base, pass_.task, [SAMPLE], TOKENS)
    (prompt,) = prompt_ids(base.tokenizer, [fitted.prompt], pass_.task.system)
    start = activation_of(base.tokenizer, pass_.task).start(prompt) if pass_.task.activate else 0
    bare = base.model(input_ids=_row(base, prompt[:start])).cache if start else None
    tokens: list[int] = []
    top: list[dict[int, float]] = []
    with attached(base, pass_):
        while len(tokens) < TOKENS and not set(tokens) & base.stop_ids:
            # What follows the bare beginning is read anew for each token, from a copy of its cache.
            logits = base.model(
                input_ids=_row(base, [*prompt[start:], *tokens]),
                cache=deepcopy(bare),
                logits_to_keep=1,
                use_cache=bare is not None,
            ).logits[0, -1]
            likeliest = logits.double().log_softmax(-1).topk(5)
            pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
            tokens.append(int(likeliest.indices[0]))
            kept = {token: value for token, value in pairs if value > LIKELY or token == tokens[-1]}
            top.append(kept)
    return Vector(composition=name, prompt=prompt, tokens=tokens, top=top, tolerance=allowed)


def _row(base: Base, ids: list[int]) -> torch.Tensor:
    return torch.tensor([ids], device=base.device)


@contextmanager
def _as_stored(base: Base, stored: Stored) -> Iterator[None]:
    """The base with each weight as its file gives it back."""
    before = {path: tensor.data for path, tensor in base.model.named_parameters()}
    try:
        for path, values in stored():
            base.model.get_parameter(path).data = values
        yield
    finally:
        for path, tensor in base.model.named_parameters():
            tensor.data = before[path]


def _rounded(pass_: Pass, shape: BaseShape, adapter_type: str) -> Pass:
    """The pass with the numbers of its files, its calibration an adapter like the others."""
    weighted = [
        replace(each, adapter=as_stored(each.adapter, adapter_type)) for each in pass_.adapters
    ]
    calibration = calibration_adapter("it", pass_, shape)
    if calibration is not None:
        weighted.append(Weighted(as_stored(calibration, adapter_type)))
    return replace(pass_, adapters=tuple(weighted), calibration=None)
