"""Libraries that only some commands need, imported when they are first used."""

import importlib
from typing import Any

from onepass.core.errors import OnepassError


def optional(module: str, extra: str, what: str = "this") -> Any:
    """The module; an `OnepassError` saying what needs it, and how to install it, if missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise OnepassError(
            f"{what} needs {package}, which is not installed: pip install 'onepass[{extra}]'"
        ) from error
