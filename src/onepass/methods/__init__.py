"""The methods: ways to obtain a Composition for a compositional task, one file each.

Importing this package registers them all, in the order of the comparison table.
"""

from onepass.methods import (  # noqa: I001  (the order is the table's)
    single,
    in_context,
    merges,
    search,
    columns,
    multi_step,
    joint,
    calibration,
    core,
    gains,
    cat,
    shared,
)
from onepass.methods.plugins import load_plugins
from onepass.methods.setting import METHODS, Method, Setting

load_plugins()  # last, so that they stand below ours

__all__ = [
    "METHODS",
    "Method",
    "Setting",
    "calibration",
    "cat",
    "columns",
    "core",
    "gains",
    "in_context",
    "joint",
    "merges",
    "multi_step",
    "search",
    "shared",
    "single",
]
