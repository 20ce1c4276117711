"""Making things: adapters by training or merging, compositions by any method."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from onepass import __version__
from onepass.adapters import merging
from onepass.adapters.adapter import ADAPTER_FILES, save_adapter
from onepass.adapters.calibration import FORMS
from onepass.adapters.composition import COMPOSITION_FILES, save_composition
from onepass.adapters.storage import check_replaceable
from onepass.api.objects import Adapter, Composition, own
from onepass.api.outputs import check_writable, resumable
from onepass.api.resolve import (
    AdapterLike,
    BaseLike,
    Data,
    TaskLike,
    TasksLike,
    adapters_of,
    as_adapter,
    as_base,
    as_task,
    base_name,
    save_dtype,
    tested_data,
    training_data,
    with_card,
)
from onepass.api.use import What, outputs, score
from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.methods import METHODS, Setting
from onepass.model.load import Base, check_loadable
from onepass.model.progress import counting
from onepass.model.training.adapter import checked_alpha, default_rate, train_adapter
from onepass.model.training.options import TrainOptions
from onepass.tasks.data import are_names
from onepass.tasks.example import Example
from onepass.tasks.task import Task

CALIBRATIONS = {
    ("lc++", None): "lc++",
    ("lc", None): "lc",
    ("lc", "output"): "lc",
    ("lc", "column"): "lc-column",
    ("core", None): "core",
    ("lc-gain", None): "lc-gain",
    ("cat", None): "cat",
}
"""The method for a kind and a form of calibration."""
VERIFIER = ("facts", "right_language", "right_tone", "verified")


def train(
    task: TaskLike,
    data: Data,
    *,
    base: BaseLike = "tiny",
    tasks: TasksLike = None,
    validation: Data | int | None = None,
    examples: int | None = None,
    test: int = 0,
    columns: Mapping[str, str] | None = None,
    rank: int = 32,
    alpha: float | None = None,
    target_modules: Sequence[str] | None = None,
    activated: bool = False,
    out: Path | str | None = None,
    save_as: str = "float16",
    device: str = "auto",
    dtype: str = "auto",
    quantization: str = "none",
    progress: bool = True,
    **options: Any,
) -> Adapter:
    """Train a LoRA adapter for one task.

    Args:
        task: a task, or the name of one that is known or declared in `tasks`.
        data: a corpus name or path, or rows in memory; see docs/data.md.
        base: what is trained on; `device`, `dtype` and `quantization` are for loading it.
        validation: examples to stop early by, or how many of the corpus's (default 500); rows in
            memory are all trained on.
        examples: at most so many of the training examples.
        test: score the result on so many examples of the corpus's test split; the card has them.
        columns: which column of the rows is "input", which "target".
        target_modules: last names of the layers to adapt; by default all linear ones of the blocks.
        activated: let it act after the text only (docs/one-reading.md), as it does anyway for a
            task that has `activate`.
        out: a folder to save into, in `save_as`; a training that was interrupted then goes on when
            it is called again.
        options: those of `TrainOptions`: max_steps, learning_rate, batch_size, ...

    Raises:
        OnepassError: what is wrong with any of these, before the work where it can be seen.
    """
    wanted = as_task(task, tasks)
    wanted = wanted.activated() if activated else wanted
    made = train_options(options)
    checked_alpha(rank, alpha)
    saved_as = save_dtype(save_as)
    if out is not None:
        check_replaceable(Path(out), ADAPTER_FILES)
        check_writable(Path(out))
    if not isinstance(base, Base):
        check_loadable(base, device, dtype, quantization)
    training, held_out = training_data(data, wanted, examples, validation, columns)
    tested = tested_data(data, wanted, test, columns)
    loaded = as_base(base, (), device, dtype, quantization)
    if options.get("learning_rate") is None:
        made = replace(made, learning_rate=default_rate(loaded))
    with _kept(out) as state:
        adapter = train_adapter(
            loaded, wanted, training, held_out, rank, alpha, made, target_modules=target_modules,
            state_dir=state, progress=progress,
        )  # fmt: skip
        adapter = own(Adapter, with_card(adapter, corpus=_name(data), onepass=__version__))
        if out is not None:
            save_adapter(adapter, out, saved_as)
    if tested:
        adapter = with_card(adapter, test=_tested(out or adapter, wanted, tested, loaded))
        if out is not None:
            save_adapter(adapter, out, saved_as)
    return adapter


def merge(
    adapters: Sequence[AdapterLike],
    method: str = "linear",
    weights: Sequence[merging.Weight] | None = None,
    *,
    rank: int | None = None,
    seed: int = 0,
    force: bool = False,
    pico: bool = False,
    **options: Any,
) -> Adapter:
    """Merge adapters of one base into one; see `onepass.adapters.merging.merge`.

    adapters: objects, folders or hub names. `onepass ls merges` lists the methods.
    """
    loaded = [as_adapter(each) for each in adapters]
    merged = merging.merge(
        loaded, method, weights, rank=rank, seed=seed, force=force, pico=pico, **options
    )
    return own(Adapter, merged)


def calibrate(
    task: TaskLike,
    adapters: Sequence[AdapterLike] | Mapping[str, AdapterLike] | None,
    data: Data,
    *,
    kind: str = "lc++",
    form: str | None = None,
    rank: int | None = None,
    **more: Any,
) -> Composition:
    """Train the calibration of a compositional task, on the linear merge of its adapters.

    kind: "lc" (biases), "lc++" (low-rank pairs of `rank`, default 4), "core" (a matrix between the
    adapters' factors), "lc-gain" (gains and biases) or "cat" (a weight per adapter and layer).
    form: of lc, "output" or "column". more: as for `compose`.
    """
    method = calibration_method(kind, form, rank)
    if rank:
        more["rank"] = rank
    return compose(method, task, adapters, data, **more)


def calibration_method(kind: str, form: str | None, rank: int | None) -> str:
    """The method that a kind, form and rank of calibration mean; `OnepassError` if none."""
    if kind not in FORMS:
        raise unknown("calibration kind", kind, list(FORMS))
    if (kind, form) not in CALIBRATIONS:
        raise OnepassError(f"{kind} has no form {form!r}; lc is output or column, others take none")
    if kind != "lc++" and rank is not None:
        what = "biases" if kind == "lc" else "parameters"
        raise OnepassError(f"rank says nothing about {kind}, whose {what} have none")
    return CALIBRATIONS[kind, form]


def compose(
    method: str,
    task: TaskLike,
    adapters: Sequence[AdapterLike] | Mapping[str, AdapterLike] | None = None,
    data: Data = (),
    *,
    base: BaseLike | None = None,
    tasks: TasksLike = None,
    validation: Data | int | None = None,
    examples: int | None = None,
    test: int = 0,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    save_as: str = "float16",
    device: str = "auto",
    dtype: str = "auto",
    quantization: str = "none",
    progress: bool = True,
    **options: Any,
) -> Composition:
    """Make a composition for a compositional task by any registered method.

    Args:
        method: a name that `onepass ls methods` lists: "lc++", "linear", "ties", "multi-step", ...
        adapters: one for each part of the task, in its order or by name; for the base tiny by
            default the embedded ones.
        data: examples of the compositional task, for methods that need some.
        base: by default the one that the adapters name.
        options: the method's own and those of training.
        Others as for `train`.

    Raises:
        OnepassError: what is wrong with any of these, before the work where it can be seen.
    """
    found = METHODS.get(method)
    found.check_options(options)
    if found.shared:
        raise OnepassError(
            f"{method} serves several tasks at once; name them in a recipe and run `onepass bench`"
        )
    wanted = as_task(task, tasks)
    options = {name: value for name, value in options.items() if value is not None}
    if found.learns:
        known = {field.name for field in fields(TrainOptions)}
        TrainOptions(**{k: v for k, v in options.items() if k in known}, seed=seed)
    saved_as = save_dtype(save_as)
    if out is not None:
        check_replaceable(Path(out), COMPOSITION_FILES)
        check_writable(Path(out))
    if isinstance(base, Path | str):
        check_loadable(base, device, dtype, quantization)
    parts = adapters_of(wanted, adapters, base) if found.uses_adapters else {}
    recorded = [each.base for each in parts.values()]
    if base is None:
        check_loadable(base_name(base, recorded), device, dtype, quantization)
    given = not (isinstance(data, tuple) and not data)
    training, held_out = (
        training_data(data, wanted, examples, validation, columns) if given else ([], [])
    )
    tested = tested_data(data, wanted, test, columns)
    loaded = as_base(base, recorded, device, dtype, quantization)
    with _kept(out) as state:
        setting = Setting(
            loaded, wanted, parts, training, held_out, options, seed, state, progress=progress
        )
        composition = found.build(setting)
        composition = own(
            Composition,
            with_card(
                composition, data=_name(data) if training else None,
                base_quantization=loaded.quantization, base_sha256=loaded.file_digest,
                onepass=__version__,
            ),
        )  # fmt: skip
        if out is not None:
            save_composition(composition, out, saved_as)
    if tested:
        scores = _tested(out or composition, wanted, tested, loaded)
        composition = with_card(composition, test=scores)
        if out is not None:
            save_composition(composition, out, saved_as)
    return composition


def _tested(what: What, task: Task, examples: Sequence[Example], base: Base) -> dict[str, Any]:
    """Per metric the mean with its 95 % interval; of what was saved, in the numbers it has there.

    Those are the task's own metric, and what the verifier says where there is one.
    """
    texts = [example.input for example in examples]
    with counting("testing", len(texts)) as progress:
        made = outputs(what, texts, task=task, base=base, progress=progress).texts
    metrics = list(dict.fromkeys([task.metric, *VERIFIER]))
    found = score(made, examples, task, metrics=metrics).intervals()
    return {name: asdict(interval) for name, interval in found.items()}


def train_options(given: Mapping[str, Any]) -> TrainOptions:
    """The training options that are `given`, None for a default; refuses unknown ones."""
    known = [field.name for field in fields(TrainOptions)]
    for name in given:
        if name not in known:
            raise unknown("training option", name, known)
    return TrainOptions(**{k: v for k, v in given.items() if v is not None})


@contextmanager
def _kept(out: Path | str | None) -> Iterator[Path | None]:
    """A folder for the state of a training that writes `out`; None if nothing is written."""
    if out is None:
        yield None
        return
    with resumable(Path(out)) as state:
        yield state


def _name(data: Data) -> str:
    if isinstance(data, str | Path):
        return str(data)
    if are_names(data):
        return " and ".join(map(str, data))
    return f"rows in memory ({type(data).__name__})"
