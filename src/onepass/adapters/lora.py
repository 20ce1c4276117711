"""A LoRA and an adapter as plain data.

ΔW of a module is `up @ down`: whatever scaling a file asks for is folded into `up` on loading, so
that nothing downstream has to remember it.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from onepass.adapters.history import History
from onepass.core.errors import OnepassError


@dataclass(frozen=True, eq=False, repr=False)
class Lora:
    """The low-rank change of one linear layer, `ΔW = up @ down`.

    down: (r, in) and up: (out, r), of one floating dtype, scaling included.
    """

    down: Tensor
    up: Tensor

    def __post_init__(self) -> None:
        if self.down.ndim != 2 or self.up.ndim != 2 or self.down.shape[0] != self.up.shape[1]:
            raise OnepassError(
                f"not a LoRA: down {tuple(self.down.shape)} and up {tuple(self.up.shape)} "
                "should be (r, in) and (out, r)"
            )

    def __repr__(self) -> str:
        return f"Lora(rank {self.rank}, (out, in) {self.shape}, {self.up.dtype})"

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in), the shape of the weight it changes."""
        return self.up.shape[0], self.down.shape[1]

    @property
    def parameter_count(self) -> int:
        return self.down.numel() + self.up.numel()

    def delta(self) -> Tensor:
        """The dense change, (out, in): for tests and small layers; nothing else needs it."""
        return self.up @ self.down


@dataclass(frozen=True, eq=False, repr=False)
class Adapter:
    """A LoRA for some modules of one base model.

    modules: by Hugging Face path, such as "model.layers.0.self_attn.q_proj".
    base: the name of the base it was trained on, or None if unknown (see `naming`).
    card: how it came to be, as JSON data.
    task_type: PEFT's, such as "CAUSAL_LM" or "FEATURE_EXTRACTION"; None if unknown.
    history: the losses of its training; None if unknown, and for a merge.
    invocation: the token ids from whose last place in a prompt on it acts (activated LoRA, arXiv
        2504.12397); () for an ordinary one, which acts on every token.
    """

    name: str
    modules: dict[str, Lora]
    base: str | None = None
    card: dict[str, Any] = field(default_factory=dict)
    task_type: str | None = "CAUSAL_LM"
    history: History | None = None
    invocation: tuple[int, ...] = ()

    def __repr__(self) -> str:
        ranks = "-".join(dict.fromkeys(map(str, (min(self.ranks), max(self.ranks)))))
        return (
            f"Adapter({self.name!r}, {len(self.modules)} modules, rank {ranks}, "
            f"{short_count(self.parameter_count)} parameters, "
            f"{'activated, ' if self.invocation else ''}base {self.base or 'unknown'})"
        )

    @property
    def ranks(self) -> tuple[int, ...]:
        """The different ranks of its modules, the lowest first; (0,) of an adapter of none."""
        return tuple(sorted({lora.rank for lora in self.modules.values()})) or (0,)

    @property
    def parameter_count(self) -> int:
        return sum(lora.parameter_count for lora in self.modules.values())

    @property
    def task_name(self) -> str:
        """The name of the task that its card states; "" if it states none."""
        task = self.card.get("task")
        return str(task.get("name", "") if isinstance(task, Mapping) else task or "")


def short_count(count: int) -> str:
    """A count to two or three digits: 950, 12.3K, 4.9M, 1.2B."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)


def projection(module: str) -> str:
    """The kind of a module: "q_proj" for "model.layers.0.self_attn.q_proj"."""
    return module.rpartition(".")[2]


def layer(module: str) -> int | None:
    """The layer a module belongs to (the first number in its path); None if it is in none."""
    return next((int(part) for part in module.split(".") if part.isdigit()), None)


def natural_order(module: str) -> list[tuple[int, str]]:
    """A sort key of modules that puts layer 2 before layer 10."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in module.split(".")]


def within_layer(module: str) -> str:
    """A module's place in its layer: "self_attn.q_proj" for "model.layers.0.self_attn.q_proj".

    Further numbers are left out: the experts of a layer are of one kind.
    """
    parts = module.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), -1)
    return ".".join(part for part in parts[first + 1 :] if not part.isdigit())


def sized(place: str, shape: tuple[int, int]) -> str:
    """The name of a projection type that needs its (out, in): "self_attn.q_proj@64x32"."""
    return f"{place}@{shape[0]}x{shape[1]}"


def projection_type(module: str, shape: tuple[int, int], types: Container[str]) -> str | None:
    """Which of the `types` (see `BaseShape.projections`) a module is of; None if of none."""
    place = within_layer(module)
    names = (sized(place, shape), place, projection(module))
    return next((name for name in names if name in types), None)


def projection_types(
    modules: Mapping[str, tuple[int, int]], types: Container[str]
) -> dict[str, str]:
    """Which of the `types` each module, with its (out, in), is of; without those of none."""
    found = {module: projection_type(module, shape, types) for module, shape in modules.items()}
    return {module: type_ for module, type_ in found.items() if type_ is not None}
