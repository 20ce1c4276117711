"""From what people give to what the floors below take: tasks, bases, adapters, examples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from onepass.adapters.adapter import CONFIG, Adapter, load_adapter
from onepass.adapters.composition import (
    MANIFEST,
    BaseShape,
    Composition,
    Pass,
    Weighted,
    load_composition,
    suited,
)
from onepass.adapters.shape import for_base
from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.evaluate.metrics import METRICS
from onepass.model.assets import embedded_adapter
from onepass.model.load import Base, check_machine, load_base
from onepass.tasks.book import Tasks, read_tasks
from onepass.tasks.corpora.reader import has_split
from onepass.tasks.corpus import load_corpus as load_corpus
from onepass.tasks.data import are_names, corpus_of, examples_of
from onepass.tasks.example import Example
from onepass.tasks.task import Task, task_from

TaskLike = Task | str
TasksLike = Tasks | Path | str | Iterable[Task | Mapping[str, Any]] | None
"""Declared tasks: a YAML file, or the tasks themselves; the benchmark's nine are always known."""
AdapterLike = Adapter | Path | str
"""An adapter, its folder in PEFT's format, or its hub name."""
BaseLike = Base | Path | str
"""A base, or the name that `load_base` takes."""
Data = Any
"""Examples: a corpus name or path, a list of them, or rows in memory (dicts, pairs, a data set, a
data frame)."""

DTYPES = ("float16", "bfloat16", "float32")
VALIDATION = 500
"""Validation examples taken of a corpus that has a split of them, unless others are given."""


class BaseNotFound(OnepassError):
    """The base on record cannot be loaded."""


def as_tasks(tasks: TasksLike) -> Tasks:
    """A book of the declared `tasks`."""
    if isinstance(tasks, Tasks):
        return tasks
    return read_tasks(tasks) if isinstance(tasks, Path | str) else Tasks(tasks or ())


def as_task(task: TaskLike, tasks: TasksLike = None) -> Task:
    """The task, by name if that is what is given; an `OnepassError` for an unknown metric."""
    found = task if isinstance(task, Task) else as_tasks(tasks).parse(task)
    try:
        METRICS.get(found.metric)
    except OnepassError as error:
        raise OnepassError(f"task {found.name!r}: {error}") from error
    return found


def as_adapter(adapter: AdapterLike) -> Adapter:
    if isinstance(adapter, Adapter):
        return adapter
    if Path(adapter, MANIFEST).is_file():
        raise OnepassError(
            f"{adapter} is a composition, not an adapter; export it in the format peft to make it "
            "one"
        )
    return load_adapter(adapter)


def adapters_of(
    task: Task,
    given: Sequence[AdapterLike] | Mapping[str, AdapterLike] | None,
    base: BaseLike | None = None,
) -> dict[str, Adapter]:
    """An adapter for each part of `task`, by its name.

    given: in the order of the parts, or by their names; for the base tiny by default the embedded
    ones. Raises `OnepassError` for another number of them, and for a part without one.
    """
    names = [part.name for part in task.parts]
    if isinstance(given, Mapping):
        for name in given:
            if name not in names:
                raise unknown("part of the task", str(name), names)
        given = [given[name] for name in names if name in given]
    if not given:
        if base is not None and str(getattr(base, "name", base)) != "tiny":
            raise OnepassError(
                f"name the adapters of {' and '.join(names)} (--adapters, or adapters=...); only "
                "the base tiny has embedded ones"
            )
        given = [embedded_adapter(name) for name in names]
    if isinstance(given, Adapter | Path | str) or len(given) != len(names):
        count = 1 if isinstance(given, Adapter | Path | str) else len(given)
        raise OnepassError(
            f"{count} adapters, but {task} has {len(names)} parts; give one each for "
            f"{' and '.join(names)}, in this order"
        )
    return {name: as_adapter(each) for name, each in zip(names, given, strict=True)}


@lru_cache(maxsize=1)
def _loaded(name: str, device: str, dtype: str, quantization: str) -> Base:
    return load_base(name, device, dtype, quantization)


def as_base(
    base: BaseLike | None,
    recorded: Iterable[str | None] = (),
    device: str = "auto",
    dtype: str = "auto",
    quantization: str = "none",
) -> Base:
    """The base, loaded if it is a name; without one, that which adapters have on `recorded`.

    The last one loaded by name is kept, so that a notebook does not load it for every call.
    """
    if isinstance(base, Base):
        return base
    check_machine(device, dtype, quantization)
    found = base_name(base, recorded)
    try:
        return _loaded(found, device, dtype, quantization)
    except OnepassError as error:
        if base is not None:
            raise
        reason = str(error).partition("; ")[0]
        raise BaseNotFound(
            f"made for the base {found}; say where that is with --model, or base=... ({reason})"
        ) from error


def base_name(base: Path | str | None, recorded: Iterable[str | None] = ()) -> str:
    """The name of the base, given or on record."""
    if base is not None:
        return str(base)
    names = [name for name in dict.fromkeys(recorded) if name]
    if not names:
        raise OnepassError("the adapters do not name their base; name it with --model, or base=...")
    return names[0]


def as_composition(
    what: Composition | AdapterLike,
    base: BaseLike | None = None,
    task: TaskLike | None = None,
    tasks: TasksLike = None,
    **machine: str,
) -> tuple[Composition, Base]:
    """What is to be run, and its base, loaded.

    An adapter, or a merge of several, is a composition of one pass; its task is that of its card
    unless one is given. A composition with a `task` given keeps its own: naming another is refused.
    """
    what = _read(what)
    if isinstance(what, Composition):
        _check_task(what, task, tasks)
        return what, as_base(base, [what.base.name], **machine)
    wanted = suited(as_task(task, tasks) if task is not None else task_of(what, tasks), [what])
    loaded = as_base(base, [what.base], **machine)
    pass_ = Pass(wanted, (Weighted(for_base(what, loaded.shape)),))
    return Composition(loaded.shape, wanted, (pass_,), "adapter"), loaded


def _check_task(what: Composition, task: TaskLike | None, tasks: TasksLike) -> None:
    if task is not None and as_task(task, tasks).name != what.task.name:
        raise OnepassError(
            f"the composition is for {what.task}, not for {task}; leave out the task"
        )


def without_base(
    what: Composition | AdapterLike,
    base: BaseLike | None = None,
    task: TaskLike | None = None,
    tasks: TasksLike = None,
) -> Composition:
    """As `as_composition`, for what needs no weights of the base: only its name is taken."""
    what = _read(what)
    if isinstance(what, Composition):
        _check_task(what, task, tasks)
        return what
    name = base.name if isinstance(base, Base) else base_name(base, [what.base])
    shape = BaseShape(name, {module: lora.shape for module, lora in what.modules.items()})
    wanted = suited(as_task(task, tasks) if task is not None else task_of(what, tasks), [what])
    pass_ = Pass(wanted, (Weighted(replace(what, base=name)),))
    return Composition(shape, wanted, (pass_,), "adapter")


def _read(what: Composition | AdapterLike) -> Composition | Adapter:
    if not isinstance(what, Path | str):
        return what
    if Path(what, MANIFEST).is_file():
        return load_composition(what)
    if Path(what).is_dir() and not Path(what, CONFIG).is_file():
        raise OnepassError(
            f"{what} is neither a composition, which has a {MANIFEST}, nor an adapter, which has "
            f"an {CONFIG}"
        )
    return load_adapter(what)


def task_of(adapter: Adapter, tasks: TasksLike = None) -> Task:
    """The task that an adapter's card states; an `OnepassError` if it states none."""
    found = adapter.card.get("task")
    if isinstance(found, Mapping):
        return task_from(found, f"the card of adapter {adapter.name!r}")
    if isinstance(found, str):
        return as_tasks(tasks).parse(found)
    raise OnepassError(
        f"adapter {adapter.name!r} does not say what task it is for; name it with --task, or "
        "task=..."
    )


def read_data(
    data: Data,
    task: Task,
    split: str,
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Example]:
    """The examples of a split of a corpus, or all rows in memory; at most `limit` of them."""
    if limit == 0:
        return []
    return examples_of(data, task, columns, split if _has_splits(data) else "all", limit)


def _has_splits(data: Data) -> bool:
    """Whether data have splits of their own: not rows in memory, all of which are meant."""
    named = isinstance(data, str | Path | Mapping) or are_names(data)
    return named or hasattr(data, "examples")


def _has_validation(data: Data, columns: Mapping[str, str] | None) -> bool:
    """Whether there is a validation split: in a corpus that has one, or is split here."""
    return _has_splits(data) and has_split(corpus_of(data, columns), "validation")


def training_data(
    data: Data,
    task: Task,
    examples: int | None,
    validation: Data | int | None,
    columns: Mapping[str, str] | None,
) -> tuple[list[Example], list[Example]]:
    """Training and validation examples.

    validation: examples, or how many of the corpus's split are taken. By default `VALIDATION` of a
    corpus that has one, none of others and of rows in memory, all of which are trained on.
    """
    training = read_data(data, task, "train", examples, columns)
    if validation is None:
        validation = VALIDATION if _has_validation(data, columns) else 0
    if isinstance(validation, int):
        if _has_splits(data):
            return training, read_data(data, task, "validation", validation, columns)
        if validation:
            raise OnepassError(
                f"validation is {validation}, but rows in memory have no split to take them from; "
                "give the validation examples themselves"
            )
        return training, []
    one_file = isinstance(validation, str | Path) and Path(validation).is_file()
    split = "all" if one_file else "validation"
    return training, read_data(validation, task, split, None, columns)


def tested_data(
    data: Data, task: Task, count: int, columns: Mapping[str, str] | None
) -> list[Example]:
    """The first `count` examples of the test split; rows in memory, all trained on, have none."""
    if count and not _has_splits(data):
        raise OnepassError(
            f"test is {count}, but rows in memory have no split to take them from; keep some back "
            "and use score"
        )
    return read_data(data, task, "test", count, columns)


def save_dtype(name: str) -> torch.dtype:
    """The dtype to save weights in, by its name."""
    if name not in DTYPES:
        raise unknown("dtype to save as", name, list(DTYPES))
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def with_card(made: Any, **more: Any) -> Any:
    """An adapter or a composition with more in its card."""
    return replace(made, card={**made.card, **more})
