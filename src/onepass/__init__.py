"""onepass: several tasks at once from one small on-device language model, in one pass."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onepass.adapters.merging import merge

__version__ = "0.1.0"
__all__ = ["merge"]


def __getattr__(name: str) -> Any:
    """`onepass.merge`, imported when it is first asked for: importing torch takes seconds."""
    if name == "merge":
        from onepass.adapters.merging import merge

        return merge
    raise AttributeError(f"module 'onepass' has no attribute {name!r}")
