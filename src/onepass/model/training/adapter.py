"""Training a LoRA adapter for one task, through peft, on a frozen base."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from onepass.adapters.lora import Adapter, Lora, projection
from onepass.core.errors import OnepassError
from onepass.model.activation import invocation_of
from onepass.model.chat import template_of
from onepass.model.frozen import frozen
from onepass.model.load import Base
from onepass.model.tokens import encode_examples, shuffled_batches, sorted_batches
from onepass.model.training.fit import OnStep, fit
from onepass.model.training.objective import (
    batch_loss,
    batch_parts,
    fingerprint,
    low_dtype,
    low_weights,
    training_card,
)
from onepass.model.training.options import TrainOptions
from onepass.tasks.example import Example
from onepass.tasks.task import Task


def checked_alpha(rank: int, alpha: float | None) -> float:
    """The alpha of a LoRA, by default 2 × rank; an `OnepassError` if either is not positive."""
    alpha = 2.0 * rank if alpha is None else alpha
    if rank < 1 or not (alpha > 0 and math.isfinite(alpha)):
        raise OnepassError(f"rank is {rank} and alpha {alpha}; both must be positive")
    return alpha


def train_adapter(
    base: Base,
    task: Task,
    examples: Sequence[Example],
    validation: Sequence[Example] = (),
    rank: int = 32,
    alpha: float | None = None,
    options: TrainOptions | None = None,
    state_dir: Path | str | None = None,
    progress: bool = True,
    on_step: OnStep | None = None,
    target_modules: Sequence[str] | None = None,
) -> Adapter:
    """Train a LoRA of `rank` on `examples` of `task`; an activated one, if the task is.

    `alpha` (default 2 × rank) scales it by alpha / rank while training; the result has that folded
    in, float32, on the CPU. The base is left as it was, also on an error or Ctrl-C; with a
    `state_dir` the training can then be resumed by calling again (see `fit`).

    target_modules: what it changes, by last names ("q_proj") or longer ends of paths; by default
        all linear layers of the base's blocks.
    """
    options = options or TrainOptions()
    alpha = checked_alpha(rank, alpha)
    targets = base.shape.targets(target_modules)
    rows = encode_examples(base, task, examples, max_tokens=options.max_tokens)
    held_out = encode_examples(base, task, validation, max_tokens=options.max_tokens)
    identity = {
        "trains": "adapter", "base": base.identity, "task": task.name, "rank": rank, "alpha": alpha,
        "data": fingerprint(rows, held_out),
    }  # fmt: skip
    if target_modules is not None:
        identity["targets"] = targets
    torch.manual_seed(options.seed)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with frozen(base.model):
        with warnings.catch_warnings():  # PEFT's own call of transformers is no news to our user
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = get_peft_model(base.model, config)
        try:
            parameters = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
            with low_weights(base, options, targets):
                history = fit(
                    parameters,
                    batch_loss(base, low_dtype(base, options), wrapped.disable_adapter),
                    lambda epoch: shuffled_batches(
                        rows, options.batch_size, f"{options.seed}/{epoch}"
                    ),
                    sorted_batches(held_out, options.batch_size),
                    options,
                    state_dir,
                    progress,
                    on_step,
                    identity,
                    title=task.name,
                    parts=batch_parts(base),
                )
            modules = {path: _lora(base.model.get_submodule(path)) for path in targets}
        finally:
            wrapped.unload()
    return Adapter(
        name=task.name,
        modules=modules,
        base=base.name,
        card={
            "task": task.to_json(),
            "template": template_of(base.tokenizer),
            "rank": rank,
            "alpha": alpha,
            "target_modules": list(dict.fromkeys(map(projection, targets))),
            "examples": len(rows),
            "validation_examples": len(held_out),
            **training_card(options, history),
        },
        history=history,
        invocation=invocation_of(base.tokenizer, task),
    )


def default_rate(base: Base) -> float:
    """The learning rate of an adapter: narrow bases take, and need, larger steps."""
    width = int(base.model.config.get_text_config().hidden_size)
    return min(2e-3, 2e-4 * 2048 / width)


def _lora(layer: Any) -> Lora:
    down = layer.lora_A["default"].weight.detach().to("cpu", torch.float32, copy=True)
    up = layer.lora_B["default"].weight.detach().to("cpu", torch.float32)
    return Lora(down, up * layer.scaling["default"])
