"""Where the embedded base and its adapters lie in the package. Nothing is read here."""

from importlib.resources import files
from pathlib import Path

from onepass.tasks.task import slug


def _asset(*parts: str) -> Path:
    return Path(str(files("onepass").joinpath("assets", *parts)))


TINY = _asset("tiny")
"""The folder of the base called "tiny"."""


def embedded_adapter(task: str) -> Path:
    """The folder of the adapter that is shipped for a single task and the base "tiny"."""
    return _asset("adapters", slug(task))
