"""Doing one job: from a recipe and names to stored runs, a function of picklable data alone.

Any worker can do any job: a process here, a machine of a cluster elsewhere.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from filelock import FileLock, Timeout

from onepass.adapters.composition import Composition, cost
from onepass.comparison.cells import Cell, Job
from onepass.comparison.environment import environment, forget_peak_memory, peak_memory
from onepass.comparison.examples import kept_row
from onepass.comparison.materials import (
    adapters_for,
    base_of,
    fingerprint,
    inputs_identity,
    split_examples,
    train_examples,
    validation_examples,
)
from onepass.comparison.recipe import Recipe
from onepass.comparison.runs import CODE, STATE, Run, RunCost, SplitResult, done_run, pack, save_run
from onepass.core.errors import OnepassError
from onepass.evaluate.score import score
from onepass.methods import METHODS, Setting
from onepass.model.generate import Generated, run
from onepass.model.load import Base
from onepass.tasks.example import Example


@dataclass(frozen=True)
class Tally:
    """What doing a job came to."""

    cells: int
    tokens: int
    """Generated."""
    seconds: float
    """Spent on generating."""


def do_job(
    job: Job, recipe: Recipe, folder: Path, on_output: Callable[[int], None] = lambda count: None
) -> Tally:
    """Build what the job's unfinished cells need, test them, and store their runs in `folder`.

    `on_output` is called with the number of outputs just generated. A job killed while training
    goes on from its last state when called again. A job of another process is left to that.
    """
    state = folder / STATE / f"{job.slug}-{fingerprint(recipe, job.cells[0], job)[:8]}"
    cells = tokens = 0
    seconds = 0.0
    with _locked(folder / STATE / f"{job.slug}.lock") as ours:
        todo = {
            cell: mark
            for cell in job.cells
            if not done_run(
                cell, mark := fingerprint(recipe, cell, job), folder, job.redo, recipe.keep
            )
        }
        if not ours or not todo:
            return Tally(0, 0, 0.0)
        forget_peak_memory()
        settings = _settings(job, recipe, state)
        began = time.perf_counter()
        built = METHODS.get(job.method).build(settings[next(iter(todo)).task])
        built_in = time.perf_counter() - began
        if built.history is not None:  # of a training that was stopped, this process saw a part
            built_in = max(built_in, built.history.seconds)
        for cell, mark in todo.items():
            setting = settings[cell.task]
            composition = built if len(job.together) == 1 else _for_task(built, setting)
            made, tested = _test(
                cell, composition, setting, recipe, mark, len(job.together), built_in, on_output
            )
            predictions = [
                {"split": split, "id": example.id, "prediction": text}
                for split, example, text in tested
            ]
            kept = _with_numbers(composition, setting.base) if recipe.keep else None
            examples = [kept_row(*each, setting.task) for each in tested] if recipe.keep else ()
            save_run(made, predictions, folder, composition.history, kept, examples)
            cells += 1
            tokens += sum(result.tokens for result in made.splits.values())
            seconds += made.seconds["generate"]
    for old in (folder / STATE).glob(f"{job.slug}-????????"):
        shutil.rmtree(old, ignore_errors=True)
    return Tally(cells, tokens, seconds)


def _settings(job: Job, recipe: Recipe, state: Path) -> dict[str, Setting]:
    """The setting of each task the job is about; a shared method gets those of all."""
    settings = {
        task: Setting(
            base=base_of(recipe),
            task=recipe.task(task),
            adapters=adapters_for(recipe, task),
            train=train_examples(recipe, task, job.examples),
            validation=validation_examples(recipe, task),
            options=recipe.options.get(job.method, {}),
            seed=job.seed,
            state_dir=state,
        )
        for task in job.together
    }
    if METHODS.get(job.method).shared:
        together = list(settings.values())
        settings = {t: replace(each, together=together) for t, each in settings.items()}
    return settings


def _for_task(built: Composition, setting: Setting) -> Composition:
    """What a shared method learnt, put on another task's merge."""
    if setting.task == built.task:
        return built
    pass_ = replace(setting.linear_merge(), calibration=built.passes[0].calibration)
    return replace(built, task=setting.task, passes=(pass_,))


def _with_numbers(composition: Composition, base: Base) -> Composition:
    """The composition, with the base's numbers that it was made on in its card."""
    numbers = {"base_quantization": base.quantization, "base_sha256": base.file_digest}
    return replace(composition, card={**composition.card, **numbers})


def _test(
    cell: Cell,
    composition: Composition,
    setting: Setting,
    recipe: Recipe,
    mark: str,
    shared_by: int,
    built_in: float,
    on_output: Callable[[int], None],
) -> tuple[Run, list[tuple[str, Example, str]]]:
    """The run of a cell, and each example of its splits with the output."""
    splits: dict[str, SplitResult] = {}
    tested: list[tuple[str, Example, str]] = []
    for split in recipe.splits:
        examples = split_examples(recipe, cell.task, split)
        out = run(
            setting.base,
            composition,
            [example.input for example in examples],
            recipe.max_new_tokens,
            recipe.batch_size,
            on_output,
        )
        splits[split] = _result(out, examples, setting, recipe)
        tested += [(split, *each) for each in zip(examples, out.texts, strict=True)]
    shown = (
        run(setting.base, composition, recipe.show, recipe.max_new_tokens) if recipe.show else None
    )
    made = Run(
        recipe=recipe.name,
        method=cell.method,
        task=cell.task,
        metric=setting.task.metric,
        examples=cell.examples,
        seed=cell.seed,
        fingerprint=mark,
        splits=splits,
        cost=_cost(composition, setting, shared_by),
        seconds={
            "build": round(built_in, 2),
            "generate": round(sum(result.seconds for result in splits.values()), 2),
        },
        card=composition.card,
        shown=shown.texts if shown else [],
        environment={
            **environment(str(setting.base.device)),
            "dtype": str(setting.base.model.dtype).removeprefix("torch."),
            CODE: METHODS.get(cell.method).code,
            "peak_memory_mb": f"{peak_memory(setting.base.device) / 1e6:.0f}",
        },
    )
    return made, tested


def _result(
    out: Generated, examples: tuple[Example, ...], setting: Setting, recipe: Recipe
) -> SplitResult:
    scores = score(out.texts, examples, setting.task, recipe.metrics)
    return SplitResult(
        count=len(examples),
        inputs=inputs_identity(examples),
        means={
            name: fmean(value for value in values if value is not None)
            for name, values in scores.items()
        },
        scores={name: pack(values) for name, values in scores.items()},
        seconds=round(out.seconds, 2),
        tokens=out.tokens,
        tokens_per_second=round(out.tokens_per_second, 1),
        shortened_inputs=sum(bool(notice) for notice in out.notices),
    )


def _cost(composition: Composition, setting: Setting, shared_by: int) -> RunCost:
    found = cost(composition, torch.bfloat16)
    sizes = [adapter.parameter_count for adapter in setting.adapters.values()]
    return RunCost(
        passes=found.passes,
        extra_parameters=found.extra_parameters,
        extra_bytes=found.extra_bytes,
        shared_by=shared_by,
        adapter_parameters=fmean(sizes) if sizes else None,
    )


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether this process alone has the lock `path`; the system frees it if the process dies."""
    lock = FileLock(path, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        raise OnepassError(f"cannot write {path}: {error.strerror}") from error
    try:
        yield True
    finally:
        lock.release()
