"""What the functions return: adapters and compositions that save, run and export themselves."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Any, TypeVar

from onepass.adapters import adapter as plain_adapter
from onepass.adapters import composition as plain_composition
from onepass.adapters.inspect import Facts, Meeting
from onepass.api.resolve import BaseLike, TaskLike, as_adapter, save_dtype
from onepass.core.errors import OnepassError
from onepass.evaluate.stats import Interval, mean_interval
from onepass.model.attach import attached
from onepass.model.load import Base

T = TypeVar("T")


class Adapter(plain_adapter.Adapter):
    """An adapter; see `onepass.adapters.adapter.Adapter` for its fields."""

    def save(self, folder: Path | str, dtype: str = "float16") -> Path:
        """Write a folder in PEFT's format; `dtype` of the weights: float16, bfloat16, float32."""
        plain_adapter.save_adapter(self, folder, save_dtype(dtype))
        return Path(folder)

    def export(
        self, format: str, folder: Path | str, task: TaskLike | None = None, **options: Any
    ) -> Path:
        """Write it for another runtime; as `onepass.api.exporting.export` does."""
        from onepass.api.exporting import export

        return export(self, format, folder, task=task, **options).folder

    def _repr_html_(self) -> str:
        return _html(self)


class Composition(plain_composition.Composition):
    """A composition; see `onepass.adapters.composition.Composition` for its fields."""

    def save(self, folder: Path | str, dtype: str = "float16") -> Path:
        """Write a folder that `onepass.load` reads; `dtype`: float16, bfloat16 or float32."""
        plain_composition.save_composition(self, folder, save_dtype(dtype))
        return Path(folder)

    def export(self, format: str, folder: Path | str, **options: Any) -> Path:
        """Write it for another runtime; as `onepass.api.exporting.export` does."""
        from onepass.api.exporting import export

        return export(self, format, folder, **options).folder

    def generate(self, texts: Any, base: BaseLike | None = None, **options: Any) -> Any:
        """Its outputs for `texts`; see `onepass.generate`."""
        from onepass.api.use import generate

        return generate(self, texts, base=base, **options)

    @contextmanager
    def attached(self, model: Any) -> Iterator[Any]:
        """The `model` with this composition beside its layers, for loops of your own.

        model: a `Base`, or the transformers model that the composition was made for. Its weights
        are untouched, and it is as before when the block is left. Of one pass, and not activated.
        """
        if len(self.passes) != 1:
            raise OnepassError(
                f"the composition for {self.task} has {len(self.passes)} passes, and a model takes "
                "one at a time; use generate"
            )
        if self.passes[0].task.activate:
            raise OnepassError(
                f"the composition for {self.task} acts from {self.passes[0].task.activate!r} on, "
                "not on every token; use generate, or base.read(texts).answer(composition)"
            )
        base = model if isinstance(model, Base) else _unchecked(model, self.base.name)
        plain_composition.check_base(self, base.shape)
        with attached(base, self.passes[0]):
            yield model

    @property
    def cost(self) -> plain_composition.Cost:
        """Passes, and what is stored for this composition alone."""
        return plain_composition.cost(self)

    def _repr_html_(self) -> str:
        return _html(self)


def _unchecked(model: Any, name: str) -> Base:
    """A base for attaching alone, which needs no tokenizer."""
    if not hasattr(model, "named_modules"):
        raise OnepassError(f"attached takes a Base or a transformers model, found {model!r:.60}")
    return Base(model, None, name, model.device)


def load_adapter(name: Path | str) -> Adapter:
    """The adapter in a folder in PEFT's format, or under a hub name.

    Raises `OnepassError` for one that is missing or damaged, and for a kind that is no plain LoRA.
    """
    return own(Adapter, as_adapter(name))


def own(kind: type[T], plain: Any) -> T:
    """The object `plain` of a floor below as one of these classes."""
    return kind(**{field.name: getattr(plain, field.name) for field in fields(plain)})


@dataclass(frozen=True, repr=False)
class Scores:
    """Scores in [0, 1] per metric and example; None where a metric does not apply.

    `scores["rougeL"]` is a mean over examples.
    """

    values: Mapping[str, Sequence[float | None]]

    def intervals(self) -> dict[str, Interval]:
        """Per metric the mean with its 95 % bootstrap interval."""
        return {name: mean_interval(values) for name, values in self.values.items()}

    def __getitem__(self, metric: str) -> float:
        known = [value for value in self.values[metric] if value is not None]
        return sum(known) / len(known)

    def __repr__(self) -> str:
        count = max(map(len, self.values.values()), default=0)
        means = ", ".join(f"{name} {100 * self[name]:.1f} %" for name in self.values)
        return f"Scores({means or 'no metric applies'}; {count} examples)"

    def _repr_html_(self) -> str:
        rows = [
            (name, f"{100 * i.mean:.1f}", f"{100 * i.low:.1f} to {100 * i.high:.1f}", str(i.count))
            for name, i in self.intervals().items()
        ]
        return table_html(("metric", "%", "95 % interval", "examples"), rows)


@dataclass(frozen=True, repr=False)
class Inspection:
    """What adapters are, and where each pair of them meets; see `onepass.adapters.inspect`."""

    facts: Sequence[Facts]
    pairs: Sequence[tuple[plain_adapter.Adapter, plain_adapter.Adapter, Mapping[str, Meeting]]]
    hints: Sequence[Sequence[str]]
    """For each pair what its figures mean for a merge."""

    def __repr__(self) -> str:
        names = ", ".join(each.name for each in self.facts)
        return f"Inspection({names}; {sum(map(len, self.hints))} hints)"

    def _repr_html_(self) -> str:
        rows = [
            (each.name, each.base or "unknown", ", ".join(map(str, each.ranks)),
             f"{each.parameters:,}", f"{each.total_norm:.3f}")
            for each in self.facts
        ]  # fmt: skip
        said = "".join(f"<li>{escape(hint)}</li>" for hints in self.hints for hint in hints)
        return table_html(("adapter", "base", "rank", "parameters", "norm"), rows) + (
            f"<ul>{said}</ul>" if said else ""
        )


def table_html(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for notebooks; every text is escaped."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html(what: object) -> str:
    return f"<code>{escape(repr(what))}</code>"
