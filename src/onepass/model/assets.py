"""Where the embedded base and its adapters lie in the package. Nothing is read here."""

from importlib.resources import files
from pathlib import Path

from onepass.adapters.naming import TINY
from onepass.tasks.task import slug

__all__ = ["TINY", "embedded_adapter"]


def _asset(*parts: str) -> Path:
    return Path(str(files("onepass").joinpath("assets", *parts)))


def embedded_adapter(task: str) -> Path:
    """The folder of the adapter that is shipped for a single task and the base "tiny"."""
    return _asset("adapters", slug(task))
