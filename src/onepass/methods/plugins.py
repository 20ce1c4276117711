"""Methods, merges and metrics from files and packages of a user's own.

A file is named with `--plugin FILE`, or in the variable `PLUGINS`, which worker processes inherit.
A package offers a module as an entry point of the group `GROUP`; being installed is enough. Both
are ordinary Python that registers things when it is imported, and run only because a user said so:
nothing that comes with a model, an adapter or a recipe can name one.
"""

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

from onepass.adapters.merging import MERGES
from onepass.core.errors import OnepassError
from onepass.evaluate.metrics import METRICS
from onepass.methods.setting import METHODS

PLUGINS = "ONEPASS_PLUGINS"
"""The environment variable that lists files, separated as in PATH."""
GROUP = "onepass.plugins"

_PREFIX = "onepass_plugin_"


def use_plugin(file: Path | str) -> None:
    """Load a file here, and in every process that is started from now on."""
    path = str(Path(file).expanduser().absolute())
    load_plugin(Path(path))
    listed = [each for each in os.environ.get(PLUGINS, "").split(os.pathsep) if each]
    os.environ[PLUGINS] = os.pathsep.join(dict.fromkeys([*listed, path]))


def load_plugins() -> None:
    """Load what the environment and installed packages name."""
    for path in os.environ.get(PLUGINS, "").split(os.pathsep):
        if path:
            load_plugin(Path(path))
    for point in entry_points(group=GROUP):
        _registering(f"the plugin {point.name} ({point.value})", point.load)


def load_plugin(path: Path) -> None:
    """Import a file, once.

    Raises:
        OnepassError: it is no Python file, fails, registers nothing, or takes a name that is known.
    """
    name = _PREFIX + path.stem
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path):
        return
    if known is not None:
        raise OnepassError(f"two plugins are called {path.name}; rename {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise OnepassError(f"{path} is no Python file; name one that registers a method")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where the digest of a method's source looks
    try:
        _registering(f"the plugin {path}", partial(spec.loader.exec_module, module), path)
    except OnepassError:
        del sys.modules[name]
        raise


def _registering(what: str, load: Callable[[], object], path: Path | None = None) -> None:
    before = [len(each) for each in (METHODS, MERGES, METRICS)]
    try:
        load()
    except Exception as error:  # anything a user's file may do
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if path and frame.filename == str(path)] or frames
        line = f"line {own[-1].lineno}" if path else f"{own[-1].filename}, line {own[-1].lineno}"
        raise OnepassError(f"{what} fails: {type(error).__name__}: {error} ({line})") from error
    if before == [len(each) for each in (METHODS, MERGES, METRICS)]:
        raise OnepassError(
            f"{what} registers no method, merge or metric; CONTRIBUTING.md shows how"
        )
