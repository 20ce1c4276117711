"""The merging engine: adapters in, one adapter out; no base model, no text, no data.

`merge` is the way in, `MERGES` the register. A merge is one function in one file here.
"""

from onepass.adapters.merging import linear, sparse, spectral, ctm  # noqa: I001  (docs order)
from onepass.adapters.merging.engine import Weight, check_mergeable, merge
from onepass.adapters.merging.stack import MERGES, MergeMethod

__all__ = [
    "MERGES",
    "MergeMethod",
    "Weight",
    "check_mergeable",
    "ctm",
    "linear",
    "merge",
    "sparse",
    "spectral",
]
