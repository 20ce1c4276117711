"""The types of a set's files, and how exactly an engine computes with each."""

from collections.abc import Iterable

from onepass.core.registry import unknown

BASE_TYPES = ("f32", "f16", "q8_0", "q4_0")
ADAPTER_TYPES = BASE_TYPES[:3]

TOLERANCES = {"f32": 1e-3, "f16": 0.05, "bf16": 0.2}
"""How far an engine's log-probabilities may be from PyTorch's, by the type of its base."""
ROUNDED = 1.0
"""The same for every type of fewer bits, which llama.cpp multiplies with 8-bit activations."""

_ADAPTER_TOLERANCES = {"f32": 1e-3, "f16": 0.05, "q8_0": 0.2}


def tolerance(base_type: str, adapter_types: Iterable[str]) -> float:
    """How far an engine's log-probabilities may be from PyTorch's, with files of these types."""
    allowed = [_ADAPTER_TOLERANCES.get(type_, 0.0) for type_ in adapter_types]
    return max(TOLERANCES.get(base_type, ROUNDED), *allowed, 0.0)


def types_of_set(base_type: str, adapter_type: str | None = None) -> tuple[str, str]:
    """The types of a set's base and adapters: by default the base's for both, at least 8 bits.

    Raises:
        OnepassError: there is no such type, with those there are.
    """
    if base_type not in BASE_TYPES:
        raise unknown("base type", base_type, list(BASE_TYPES))
    return base_type, type_of_adapters(base_type, adapter_type)


def type_of_adapters(base_type: str, adapter_type: str | None = None) -> str:
    """As `types_of_set`, for a base of any type."""
    adapter_type = adapter_type or (base_type if base_type in ADAPTER_TYPES else "q8_0")
    if adapter_type not in ADAPTER_TYPES:
        raise unknown("adapter type", adapter_type, list(ADAPTER_TYPES))
    return adapter_type
