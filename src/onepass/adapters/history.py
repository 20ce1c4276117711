"""The history of a training, in memory and as a small file beside what was trained.

`history.json` in an adapter's folder, `calibration-0.history.json` beside a calibration:

    {"steps": 300, "losses": [2.31, ...], "validation": [[100, 0.52], ...], "best_step": 300,
     "best_loss": 0.41, "stopped_early": false, "seconds": 71.5}

Losses are in nats per target token, one per optimiser step; "validation" has (step, loss) pairs.
"""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from onepass.adapters.manifests import read_manifest
from onepass.core.files import write_text

HISTORY = "history.json"


class History(BaseModel):
    """What happened in a training: `steps` done, and a loss (nats per target token) for each."""

    model_config = ConfigDict(extra="forbid")

    steps: int = 0
    losses: list[float] = Field(default=[], repr=False)
    validation: list[tuple[int, float]] = Field(default=[], repr=False)
    """(step, loss) of each validation."""
    best_step: int | None = None
    best_loss: float | None = None
    stopped_early: bool = False
    seconds: float = 0.0
    """Time spent; for a resumed training, the sum over its sessions."""


def write_history(history: History | None, path: Path) -> None:
    """Write the history, losses to six digits; None writes nothing."""
    if history is None:
        return
    rounded = {
        **history.model_dump(),
        "losses": [_short(loss) for loss in history.losses],
        "validation": [(step, _short(loss)) for step, loss in history.validation],
        "seconds": round(history.seconds, 1),
    }
    write_text(path, json.dumps(rounded) + "\n")


def read_history(path: Path) -> History | None:
    """What `write_history` wrote; None if there is no such file.

    Raises `OnepassError` if the file is not a history.
    """
    return read_manifest(History, path) if path.is_file() else None


def _short(loss: float) -> float:
    return float(f"{loss:.6g}")
