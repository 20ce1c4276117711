"""Activated adapters on the embedded base, and by brute force what they compute."""

from functools import cache
from pathlib import Path
from zlib import crc32

import torch

from activated_kit import greedy
from device_kit import random_calibration, random_parts
from onepass.adapters.adapter import Adapter, Lora
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.export import export_gguf
from onepass.export.manifest import Manifest
from onepass.model.activation import activation_of
from onepass.model.load import Base, load_base
from onepass.tasks.book import parse_task

SPANISH, WITTY = "summarize+translate:es", "summarize+tone:witty"
TURNS = (
    "Ana: Shall we have tea at five?",
    "Ben: Five is too late for me [sorry].",
    "Ana: At three, then?",
    "Ben: At three, by the harbour. Bring the cake.",
)
TALK = "\n".join(TURNS)


@cache
def tiny() -> Base:
    """The embedded base; not to be changed."""
    return load_base("tiny", "cpu")


def activated_parts(base: Base, names: str, size: float = 0.2) -> list[Adapter]:
    """A random activated adapter for each single task of a combination."""
    made = []
    for task in parse_task(names).activated().parts:
        random = torch.Generator().manual_seed(crc32(task.name.encode()))
        modules = {
            path: Lora(
                torch.randn(4, in_, generator=random) * size,
                torch.randn(out, 4, generator=random) * size,
            )
            for path, (out, in_) in base.shape.modules.items()
        }
        invocation = activation_of(base.tokenizer, task).invocation
        made.append(
            Adapter(task.name, modules, base.name, {"task": task.name}, invocation=invocation)
        )
    return made


def activated(base: Base, names: str = SPANISH) -> Composition:
    """Half of each part, and a calibration, acting from "[" on."""
    task = parse_task(names).activated()
    weighted = tuple(Weighted(adapter, 0.5) for adapter in activated_parts(base, names))
    pass_ = Pass(task, weighted, random_calibration(base, size=0.05))
    return Composition(base.shape, task, (pass_,), "lc++")


def ordinary(base: Base, names: str = SPANISH) -> Composition:
    task = parse_task(names)
    weighted = tuple(Weighted(adapter, 0.5) for adapter in random_parts(base, 2, 0.1))
    return Composition(base.shape, task, (Pass(task, weighted),), "linear")


def multi_step(base: Base, names: str = SPANISH) -> Composition:
    task = parse_task(names).activated()
    adapters = activated_parts(base, names)
    passes = tuple(
        Pass(part, (Weighted(each),)) for part, each in zip(task.parts, adapters, strict=True)
    )
    return Composition(base.shape, task, passes, "multi-step")


def save_mixed(base: Base, folder: Path, **options: object) -> Manifest:
    """Two activated compositions that share a part, several passes, and an ordinary one."""
    made = {
        "spanish": activated(base),
        "witty": activated(base, WITTY),
        "steps": multi_step(base),
        "plain": ordinary(base),
    }
    return export_gguf(made, base, folder, "f32", "f32", **options)  # type: ignore[arg-type]


def said(base: Base, passes: tuple[Pass, ...], text: str, count: int) -> str:
    """The text that the passes make of a text, one after the other."""
    for pass_ in passes:
        ids = [each for each in greedy(base, pass_, text, count) if each not in base.stop_ids]
        text = str(base.tokenizer.decode(ids, skip_special_tokens=True)).strip()
    return text
