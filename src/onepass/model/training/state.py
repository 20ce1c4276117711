"""The state of a training on disk: one safetensors file, whole or absent.

It holds the parameters, the best ones so far, the optimiser's moments, and as its metadata the
history and what is being trained, so that a state is never resumed as something else.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onepass.adapters.history import History
from onepass.adapters.storage import read_tensors, write_tensors
from onepass.core.errors import OnepassError
from onepass.core.files import atomic_file

STATE = "state.safetensors"
_METADATA = "onepass.training"
_MOMENTS = ("exp_avg", "exp_avg_sq")

Parameters = Mapping[str, nn.Parameter]
Best = dict[str, Tensor]
"""A copy of the best parameters so far; empty before the first validation."""


def save_state(
    folder: Path,
    identity: Mapping[str, Any],
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    best: Best,
    history: History,
) -> None:
    """Replace the state in `folder`; `identity` is JSON data saying what is being trained."""
    tensors = {f"best/{name}": tensor for name, tensor in best.items()}
    for name, parameter in parameters.items():
        tensors[f"now/{name}"] = parameter.detach()
        for moment in _MOMENTS:
            if moment in optimizer.state[parameter]:
                tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    described = json.dumps({"identity": identity, "history": history.model_dump()})
    with atomic_file(folder / STATE) as temporary:
        write_tensors(tensors, temporary, metadata={_METADATA: described})


def load_state(
    folder: Path,
    identity: Mapping[str, Any],
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
) -> tuple[Best, History] | None:
    """Put a saved state into `parameters` and `optimizer`; None if `folder` holds none.

    Raises `OnepassError` if the file is damaged or of a training with another `identity`.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    tensors, metadata = read_tensors(path)
    try:
        described = json.loads(metadata[_METADATA])
        found, history = described["identity"], History(**described["history"])
    except (KeyError, TypeError, ValueError) as error:
        raise OnepassError(f"{path} is no training state; remove it") from error
    wanted = json.loads(json.dumps(identity))
    differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if differing:
        changes = ", ".join(f"{k} {found.get(k)!r} -> {wanted.get(k)!r}" for k in differing)
        raise OnepassError(
            f"{path} is the state of another training ({changes}); "
            "remove it to start afresh, or ask for the same as before to resume"
        )
    missing = [name for name in parameters if f"now/{name}" not in tensors]
    if missing:
        raise OnepassError(f"{path} lacks the parameter {missing[0]}; remove it to start afresh")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"now/{name}"])
            if history.steps:
                state: dict[str, Tensor] = {"step": torch.tensor(float(history.steps))}
                for moment in _MOMENTS:
                    state[moment] = tensors[f"{moment}/{name}"].to(parameter.device)
                optimizer.state[parameter] = state
    best = {
        name: tensors[f"best/{name}"].to(parameter.device)
        for name, parameter in parameters.items()
        if f"best/{name}" in tensors
    }
    return best, history
