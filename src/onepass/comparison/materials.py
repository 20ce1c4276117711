"""What cells are made from: bases, adapters and examples, each loaded once per process.

Also their identities: short hashes of content, never of paths, so that finished runs stay valid
when they or the recipe move to another folder or machine.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from onepass.adapters.adapter import CONFIG, WEIGHTS, Adapter, load_adapter
from onepass.comparison.cells import SHOWN_EXAMPLES, Cell, Job, jobs_of
from onepass.comparison.recipe import CorpusName, Recipe
from onepass.core.errors import OnepassError
from onepass.methods import METHODS
from onepass.model.identity import hash_files, model_identity
from onepass.model.load import Base, load_base
from onepass.tasks.benchmark import COMPOSITIONAL_TASKS
from onepass.tasks.corpus import load_corpus
from onepass.tasks.example import Example
from onepass.tasks.task import Task

Columns = tuple[tuple[str, str], ...]


@cache
def _base(name: str, device: str, dtype: str, quantization: str) -> Base:
    return load_base(name, device, dtype, quantization)


def base_of(recipe: Recipe) -> Base:
    return _base(recipe.base, recipe.device, recipe.dtype, recipe.quantization)


def forget() -> None:
    """Free the memory of bases, and look at adapters anew: some may just have been trained."""
    _base.cache_clear()
    adapter_at.cache_clear()
    _adapter_identity.cache_clear()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


@cache
def adapter_at(folder: Path) -> Adapter:
    return load_adapter(folder)


@cache
def corpus_examples(
    corpus: CorpusName, task: Task, split: str, limit: int | None, columns: Columns = ()
) -> tuple[Example, ...]:
    """The first `limit` examples (None: all; 0: none, so none need exist)."""
    if limit == 0:
        return ()
    return tuple(load_corpus(corpus, dict(columns)).examples(task, split, limit))


def train_examples(recipe: Recipe, task: str, budget: int) -> tuple[Example, ...]:
    """As many as the budget; an `OnepassError` if there are fewer, which a plot would hide."""
    found = _examples(recipe, task, "train", budget or SHOWN_EXAMPLES)
    if len(found) < budget:
        corpus = recipe.corpus_of(task)
        name = corpus if isinstance(corpus, str) else " and ".join(corpus)
        raise OnepassError(
            f"recipe {recipe.name}, field examples: the budget is {budget}, but "
            f"{name} has {len(found)} training examples of {task}; lower it"
        )
    return found


def validation_examples(recipe: Recipe, task: str) -> tuple[Example, ...]:
    return _examples(recipe, task, "validation", recipe.validation)


def split_examples(recipe: Recipe, task: str, split: str) -> tuple[Example, ...]:
    return _examples(recipe, task, split, recipe.test)


def _examples(recipe: Recipe, task: str, split: str, limit: int) -> tuple[Example, ...]:
    return corpus_examples(
        recipe.corpus_of(task), recipe.task(task), split, limit, columns_of(recipe)
    )


def columns_of(recipe: Recipe) -> Columns:
    """The recipe's columns as what can be a key of a cache."""
    return tuple(sorted(recipe.columns.items()))


def read_examples(recipe: Recipe) -> None:
    """Read all examples that a recipe needs, so that what is wrong with them shows now."""
    for job in jobs_of(recipe):
        for task in job.together:
            train_examples(recipe, task, job.examples)
            if job.examples:
                validation_examples(recipe, task)
            for split in recipe.splits:
                split_examples(recipe, task, split)


def adapters_for(recipe: Recipe, task: str) -> dict[str, Adapter]:
    """The adapters there are of the task's parts, by part."""
    folders = {p.name: recipe.adapter_folder(p.name) for p in recipe.task(task).parts}
    return {
        part: adapter_at(folder)
        for part, folder in folders.items()
        # Where adapters can be trained, some may be left out that nobody needs.
        if folder is not None and (recipe.train is None or folder.is_dir())
    }


def fingerprint(recipe: Recipe, cell: Cell, job: Job) -> str:
    """Changes when anything does that the cell's result depends on.

    What does not count: other cells, paths, the batch size of generation, the device, the code
    (see `runs.changed_code`).
    """
    weights = {
        field: getattr(recipe, field)
        for field in ("dtype", "quantization")
        if getattr(recipe, field) != Recipe.model_fields[field].default
    }
    return _hash(
        {
            "cell": [cell.method, cell.task, cell.examples, cell.seed],
            "base": base_identity(recipe.base),
            "options": recipe.options.get(cell.method, {}),
            "together": [_task_identity(recipe, task, cell) for task in job.together],
            "splits": {
                split: _data_identity(
                    recipe.corpus_of(cell.task),
                    recipe.task(cell.task),
                    split,
                    recipe.test,
                    columns_of(recipe),
                )
                for split in recipe.splits
            },
            "metrics": recipe.metrics,
            "max_new_tokens": recipe.max_new_tokens,
            **({"show": recipe.show} if recipe.show else {}),
            **({"activated": True} if recipe.train and recipe.train.activated else {}),
            **weights,
        }
    )


def _task_identity(recipe: Recipe, task: str, cell: Cell) -> list[Any]:
    folders = {p.name: recipe.adapter_folder(p.name) for p in recipe.task(task).parts}
    learns = METHODS.get(cell.method).learns
    corpus, data, columns = recipe.corpus_of(task), recipe.task(task), columns_of(recipe)
    shown = len(train_examples(recipe, task, cell.examples))
    return [
        # The benchmark's tasks are known by their names; of a declared one every word counts.
        task if task in COMPOSITIONAL_TASKS else data.to_json(),
        {part: folder and _adapter_identity(folder) for part, folder in folders.items()},
        _data_identity(corpus, data, "train", shown, columns),
        _data_identity(corpus, data, "validation", recipe.validation, columns) if learns else "",
    ]


@cache
def _data_identity(corpus: CorpusName, task: Task, split: str, limit: int, columns: Columns) -> str:
    examples = corpus_examples(corpus, task, split, limit, columns)
    return _hash([[e.id, e.input, e.targets, dict(e.meta)] for e in examples])


def inputs_identity(examples: Iterable[Example]) -> str:
    """Equal where the inputs are equal, in their order: then outputs can be compared in pairs."""
    return _hash([example.input for example in examples])


@cache
def _adapter_identity(folder: Path) -> str:
    return hash_files([folder / CONFIG, folder / WEIGHTS])


@cache
def base_identity(name: str) -> str:
    return model_identity(name)


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
