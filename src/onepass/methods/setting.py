"""What a method is given, and the register of methods.

A method is a function from a `Setting` to a `Composition`. To add one, write a file in this folder
with a decorated function, and import it in `onepass.methods`.
"""

import hashlib
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from onepass.adapters.adapter import Adapter
from onepass.adapters.composition import Composition, Pass, Weighted, suited
from onepass.adapters.merging.stack import check_count, check_number
from onepass.adapters.shape import for_base
from onepass.core.errors import OnepassError
from onepass.core.registry import Registry, unknown
from onepass.model.chat import template_of
from onepass.model.load import Base
from onepass.model.training.options import TrainOptions
from onepass.tasks.example import Example
from onepass.tasks.task import Task


@dataclass(frozen=True)
class Setting:
    """One cell's ingredients.

    `adapters` maps single task names to task adapters. `train` and `validation` are examples of the
    compositional `task`; nothing of test is here. `options` are the method's own, from the recipe;
    `together` holds the settings of all tasks of a shared method, this one's among them. `method`
    is the name of the method that is building; `method` (the decorator) sets it. Activated adapters
    make it an activated task.
    """

    base: Base
    task: Task
    adapters: Mapping[str, Adapter]
    train: Sequence[Example] = ()
    validation: Sequence[Example] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    state_dir: Path | None = None
    progress: bool = False
    together: Sequence["Setting"] = ()
    method: str = ""

    def __post_init__(self) -> None:
        fitted = {part: for_base(each, self.base.shape) for part, each in self.adapters.items()}
        object.__setattr__(self, "adapters", fitted)
        object.__setattr__(self, "task", suited(self.task, fitted.values()))

    def adapter(self, part: Task) -> Adapter:
        """The adapter of one of the task's parts; an `OnepassError` when there is none."""
        if part.name not in self.adapters:
            raise OnepassError(
                f"{self.task.name} needs an adapter for {part.name!r}; there are adapters for: "
                f"{', '.join(self.adapters) or 'none'}. Train one with `onepass train {part.name}`"
            )
        return self.adapters[part.name]

    def parts(self) -> list[Adapter]:
        """The adapters of the task's parts, main task first."""
        return [self.adapter(part) for part in self.task.parts]

    def linear_merge(self, weights: Sequence[float] | None = None) -> Pass:
        """The linear merge; by default with weights 1/N, as under a calibration (2507.16083)."""
        parts = self.parts()
        if weights is None:
            weights = [1.0 / len(parts)] * len(parts)
        weighted = (Weighted(a, float(w)) for a, w in zip(parts, weights, strict=True))
        return Pass(self.task, tuple(weighted))

    def compose(self, *passes: Pass, **card: Any) -> Composition:
        card = {"template": template_of(self.base.tokenizer), **card}
        return Composition(self.base.shape, self.task, passes, self.method, card)

    def option(self, name: str, default: Any) -> Any:
        return self.options.get(name, default)

    def number(self, name: str, default: float, low: float, high: float = math.inf) -> float:
        """An option that is a number from `low` to `high`."""
        value: float = self.option(name, default)
        check_number(f"{self.method}: {name}", value, low, high)
        return value

    def count(self, name: str, default: int) -> int:
        """An option that is a whole number of at least 1."""
        value: int = self.option(name, default)
        check_count(f"{self.method}: {name}", value)
        return value

    def shots(self, default: int) -> Sequence[Example]:
        """The first training examples, as many as the option `shots` says; at least one."""
        found = self.train[: self.count("shots", default)]
        if not found:
            raise OnepassError(
                f"{self.method} needs training examples of {self.task.name}; found none"
            )
        return found

    def train_options(self, **defaults: Any) -> TrainOptions:
        """Training options: the recipe's over the method's `defaults` over the general ones."""
        known = {f.name for f in fields(TrainOptions)}
        given = {name: value for name, value in self.options.items() if name in known}
        return TrainOptions(**{"seed": self.seed, **defaults, **given})


Build = Callable[[Setting], Composition]


@dataclass(frozen=True)
class Method:
    """A row of the comparison table.

    `reference` is its row in the paper's table 1, if it has one there. `options` are the options it
    reads beside those of training. `learns`: needs training examples, so the budget matters.
    `shared`: what it learns serves all tasks of a recipe at once. `efficient`: one pass, and far
    less storage than an adapter. `uses_adapters`: needs those of the task's parts. `code` is the
    digest of the files it is written in, see `source_digest`.
    """

    name: str
    title: str
    build: Build
    reference: str = ""
    options: tuple[str, ...] = ()
    learns: bool = False
    shared: bool = False
    efficient: bool = True
    uses_adapters: bool = True
    code: str = ""

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuse an option that this method would silently ignore."""
        trained = [f.name for f in fields(TrainOptions)] if self.learns else []
        for option in options:
            if option not in (*self.options, *trained):
                raise unknown(f"option of {self.name}", option, [*self.options, *trained])


METHODS: Registry[Method] = Registry("method")


def method(
    name: str, title: str, made_of: Sequence[Callable[..., Any]] = (), **facts: Any
) -> Callable[[Build], Build]:
    """Register the decorated function as the method `name`; `facts` are fields of `Method`.

    made_of: functions of other files that an edit of changes the method, too.
    """

    def register(build: Build) -> Build:
        def named(setting: Setting) -> Composition:
            made = build(replace(setting, method=name))
            if not isinstance(made, Composition):
                raise OnepassError(
                    f"method {name} gave {made!r:.60}; it must return a composition, as "
                    "setting.compose makes it"
                )
            return made

        # Now, not when it is asked for: a file may be edited while its old code still runs.
        code = source_digest(part.__module__ for part in (build, *made_of))
        METHODS.add(name, Method(name, title, named, code=code, **facts))
        return build

    return register


def source_digest(modules: Iterable[str]) -> str:
    """16 hex digits of the modules' own source, not of what they call; "" where one has none."""
    try:
        sources = [inspect.getsource(sys.modules[name]) for name in dict.fromkeys(modules)]
    except (OSError, TypeError, KeyError):  # typed in, or installed without sources
        return ""
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]
