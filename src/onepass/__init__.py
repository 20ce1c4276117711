"""onepass: several tasks at once from one small on-device language model, in one pass.

    import onepass as op

    task = op.Task("title", prompt="Write a title:\n\n{text}") + op.parse_task("translate:es")
    composed = op.calibrate(task, ["adapters/title", "adapters/spanish"], rows, base="MODEL")
    composed.generate("Ana: Tea at five?\nBen: Yes!")

docs/python.md walks through it. Names are imported when first used: importing torch takes seconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

from onepass.core.errors import OnepassError

if TYPE_CHECKING:
    from onepass.api.benching import bench as bench
    from onepass.api.benching import report as report
    from onepass.api.describe import describe as describe
    from onepass.api.make import calibrate as calibrate
    from onepass.api.make import compose as compose
    from onepass.api.make import merge as merge
    from onepass.api.make import train as train
    from onepass.api.objects import Adapter as Adapter
    from onepass.api.objects import Composition as Composition
    from onepass.api.objects import load_adapter as load_adapter
    from onepass.api.resolve import load_corpus as load_corpus
    from onepass.api.use import generate as generate
    from onepass.api.use import inspect as inspect
    from onepass.api.use import load as load
    from onepass.api.use import score as score
    from onepass.model.load import Base as Base
    from onepass.model.load import load_base as load_base
    from onepass.tasks.book import Tasks as Tasks
    from onepass.tasks.book import parse_task as parse_task
    from onepass.tasks.book import read_tasks as read_tasks
    from onepass.tasks.task import Task as Task

__version__ = "0.1.0"

_NAMES = {
    "Adapter": "api.objects", "Base": "model.load", "Composition": "api.objects",
    "Task": "tasks.task", "Tasks": "tasks.book", "bench": "api.benching", "calibrate": "api.make",
    "compose": "api.make", "describe": "api.describe",
    "generate": "api.use", "inspect": "api.use",
    "load": "api.use", "load_adapter": "api.objects", "load_base": "model.load",
    "load_corpus": "api.resolve",
       "merge": "api.make", "parse_task": "tasks.book", "read_tasks": "tasks.book",
    "report": "api.benching", "score": "api.use", "train": "api.make",
}  # fmt: skip
"""What is offered here, and the module below `onepass` that has it."""

__all__ = ["OnepassError", *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"onepass.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'onepass' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
