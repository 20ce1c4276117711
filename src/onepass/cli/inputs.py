"""What commands read: examples of a split, the adapters of a task, the dtype to save in."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.tasks.corpus import Corpus
from onepass.tasks.example import Example
from onepass.tasks.task import Task

if TYPE_CHECKING:
    import torch

    from onepass.adapters.adapter import Adapter

DTYPES = ("float16", "bfloat16", "float32")


def slug(task: str) -> str:
    """A task's name as a folder's: "summarize+translate-es"."""
    return task.replace(":", "-")


def read_split(corpus: Corpus, task: Task, split: str, limit: int | None) -> list[Example]:
    """The first `limit` examples of a split; a limit of 0 asks for none, so none need exist."""
    return [] if limit == 0 else corpus.examples(task, split, limit)


def embedded_adapter(part: str) -> Path:
    """The folder of the adapter that is shipped for a single task and the base tiny."""
    return Path(str(files("onepass") / "assets" / "adapters" / slug(part)))


def load_adapters(task: Task, model: str, given: Sequence[Path]) -> dict[str, "Adapter"]:
    """An adapter for each part of `task`, in its order: those `given`, else the embedded ones."""
    from onepass.adapters.adapter import load_adapter

    if not given:
        if model != "tiny":
            raise OnepassError(
                f"name the adapters of {' and '.join(task.parts)} with --adapters; "
                "only the base tiny has embedded ones"
            )
        given = [embedded_adapter(part) for part in task.parts]
    if len(given) != len(task.parts):
        raise OnepassError(
            f"--adapters names {len(given)} adapters, but {task.name} has {len(task.parts)} parts; "
            f"name one each for {' and '.join(task.parts)}, in this order"
        )
    return {part: load_adapter(path) for part, path in zip(task.parts, given, strict=True)}


def torch_dtype(name: str) -> "torch.dtype":
    """The dtype to save weights in, by its name."""
    import torch

    if name not in DTYPES:
        raise unknown("dtype to save as", name, list(DTYPES))
    dtype: torch.dtype = getattr(torch, name)
    return dtype
