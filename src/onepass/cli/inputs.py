"""What commands read: examples of a split, the adapters of a task, the dtype to save in."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.model.assets import embedded_adapter
from onepass.tasks.corpus import Corpus
from onepass.tasks.example import Example
from onepass.tasks.task import Task

if TYPE_CHECKING:
    import torch

    from onepass.adapters.adapter import Adapter

DTYPES = ("float16", "bfloat16", "float32")


def read_splits(corpus: Corpus, task: Task, **limits: int | None) -> list[list[Example]]:
    """The first so many examples of each split that is named, in their order; None: all.

    A limit of 0 asks for none, so none need exist.
    """
    return [
        [] if limit == 0 else corpus.examples(task, split, limit) for split, limit in limits.items()
    ]


def load_adapters(task: Task, model: str, given: Sequence[Path]) -> dict[str, "Adapter"]:
    """An adapter for each part of `task`, in its order: those `given`, else the embedded ones."""
    from onepass.adapters.adapter import load_adapter

    names = [part.name for part in task.parts]
    if not given:
        if model != "tiny":
            raise OnepassError(
                f"name the adapters of {' and '.join(names)} with --adapters; "
                "only the base tiny has embedded ones"
            )
        given = [embedded_adapter(part) for part in names]
    if len(given) != len(task.parts):
        raise OnepassError(
            f"--adapters names {len(given)} adapters, but {task.name} has {len(task.parts)} parts; "
            f"name one each for {' and '.join(names)}, in this order"
        )
    return {part: load_adapter(path) for part, path in zip(names, given, strict=True)}


def torch_dtype(name: str) -> "torch.dtype":
    """The dtype to save weights in, by its name."""
    import torch

    if name not in DTYPES:
        raise unknown("dtype to save as", name, list(DTYPES))
    dtype: torch.dtype = getattr(torch, name)
    return dtype
