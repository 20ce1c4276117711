"""Running `onepass` in this process, and small things on disk for it to work on."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from onepass.adapters.adapter import Adapter, save_adapter
from onepass.adapters.calibration import Calibration, Form
from onepass.adapters.composition import Composition, Pass, Weighted, save_composition
from onepass.cli import app
from onepass.model.load import Base
from onepass.tasks.book import parse_task

TASK = "summarize+translate:es"
FAST = ("--batch-size", "4", "--steps", "2", "--validation", "2", "--device", "cpu")
"""Options for a training of a moment."""


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    def succeeded(self) -> "Done":
        assert self.code == 0, self.err
        assert "Traceback" not in self.err
        return self

    def refused(self, *words: str) -> "Done":
        """Told in one `error:` line that holds all `words`, with exit status 2."""
        assert self.code == 2, self.out + self.err
        assert "Traceback" not in self.err
        assert self.err.splitlines()[-1].startswith("error: "), self.err
        for word in words:
            assert word in self.err.splitlines()[-1], self.err
        return self


def onepass(capsys: pytest.CaptureFixture[str], *args: object) -> Done:
    """Run the command line in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        app.main([str(arg) for arg in args])
    captured = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return Done(stopped.value.code, captured.out, captured.err)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def listing(folder: Path) -> dict[str, bytes]:
    """Every file under a folder and what it holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def conversations(count: int = 24) -> list[dict[str, Any]]:
    """Rows of input and target, short enough for the micro base."""
    return [
        {"input": f"Ana: Tea at {n}?\nBen: Yes, Ana.", "target": f"Ben y Ana: té a las {n}."}
        for n in range(count)
    ]


def save_adapters(folder: Path, make: Callable[..., Adapter]) -> list[Path]:
    """Random adapters of the micro base for the two parts of `TASK`."""
    paths = []
    for seed, name in enumerate(("summarize", "spanish")):
        paths.append(folder / name)
        save_adapter(make(name, seed=seed), paths[-1])
    return paths


def random_composition(base: Base, make: Callable[..., Adapter], form: Form) -> Composition:
    """A composition of `TASK` for the micro base, with a random calibration of this form."""
    random = torch.Generator().manual_seed(7)
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for kind, (out, in_) in base.shape.projections().items():
        up = torch.randn(out, 2, generator=random) * 0.2
        down = torch.randn(2, in_, generator=random) * 0.2
        tensors[kind] = {"down": down, "up": up} if form == "lowrank" else {"bias": up[:, 0]}
    calibration = Calibration("lc++" if form == "lowrank" else "lc", form, tensors)
    adapters = tuple(Weighted(make(name, seed=s), 0.5) for s, name in enumerate(("a", "b")))
    pass_ = Pass(parse_task(TASK), adapters, calibration)
    return Composition(
        base.shape, parse_task(TASK), (pass_,), "lc++" if form == "lowrank" else "lc"
    )


def save_random_composition(
    folder: Path, base: Base, make: Callable[..., Adapter], form: Form = "lowrank"
) -> Path:
    save_composition(random_composition(base, make, form), folder)
    return folder


def packed(
    capsys: pytest.CaptureFixture[str], composition: Path, base_folder: Path, folder: Path
) -> Path:
    """A device set of a composition, in 32 bits."""
    options = ("--out", folder, "--model", base_folder, "--base-type", "f32")
    onepass(capsys, "pack", composition, *options).succeeded()
    return folder


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Interrupted(Terminal):
    """A terminal at which Ctrl-C is pressed instead of every line "^C"."""

    def __next__(self) -> str:  # type: ignore[override]
        line = super().__next__()
        if line == "^C\n":
            raise KeyboardInterrupt
        return line
