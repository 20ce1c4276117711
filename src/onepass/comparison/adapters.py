"""Training the task adapters that a recipe needs and that are not there yet."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from onepass.adapters.adapter import CONFIG, Adapter, save_adapter
from onepass.adapters.peft_config import read_config
from onepass.comparison.cells import jobs_of
from onepass.comparison.materials import base_of, columns_of, corpus_examples, forget, read_examples
from onepass.comparison.recipe import Recipe, Training, corpus_for
from onepass.comparison.runs import STATE
from onepass.core.errors import OnepassError
from onepass.methods import METHODS
from onepass.model.training.adapter import default_rate, train_adapter
from onepass.model.training.options import TrainOptions
from onepass.tasks.example import Example
from onepass.tasks.task import slug

ADAPTERS = "adapters"


def with_places(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe, with a folder named for every adapter that is to be trained.

    They go where the field `adapters` says, or else into the `folder` of the runs.
    """
    if recipe.train is None:
        return recipe
    given = recipe.adapters
    home = Path(given) if isinstance(given, str) else folder / ADAPTERS
    places = {} if isinstance(given, str) else dict(given)
    for part in _parts(recipe, recipe.tasks):
        found = None if part in places else recipe.adapter_folder(part)
        places.setdefault(part, str(found or home.absolute() / slug(part)))
    return recipe.model_copy(update={"adapters": places})


def missing(recipe: Recipe, only: Sequence[str] = ()) -> list[str]:
    """The single tasks whose adapters are to be trained: in a recipe made by `with_places`.

    Those that a cell needs, or one of the cells that `only` names (see `jobs_of`).
    """
    if recipe.train is None:
        return []
    tasks = {
        task
        for job in jobs_of(recipe, only)
        if METHODS.get(job.method).uses_adapters
        for task in job.together
    }
    folders = {part: recipe.adapter_folder(part) for part in _parts(recipe, tasks)}
    found = {part: folder for part, folder in folders.items() if folder and folder.is_dir()}
    for part, folder in found.items():
        _check_activated(recipe, part, folder)
    return [part for part in folders if part not in found]


def _check_activated(recipe: Recipe, part: str, folder: Path) -> None:
    """Raise `OnepassError` for an adapter that was trained for the other kind of prompt."""
    wanted = bool(recipe.task(part).activate)
    if bool(read_config(folder / CONFIG).alora_invocation_tokens) != wanted:
        raise OnepassError(
            f"recipe {recipe.name}, field train.activated: the adapter of {part} in {folder} is "
            f"{'an ordinary' if wanted else 'an activated'} one; set the field to match, or name "
            "another folder"
        )


def training_examples(recipe: Recipe, part: str) -> tuple[list[Example], list[Example]]:
    """What the adapter of a single task is trained on, and what it is validated on."""
    train = _training(recipe)
    corpus = corpus_for(recipe.corpus if train.corpus is None else train.corpus, part)
    if corpus is None:
        raise OnepassError(
            f"recipe {recipe.name}, field train.corpus: there is none for {part}, whose adapter is "
            "to be trained; give one, or the adapter"
        )
    task, columns = recipe.task(part), columns_of(recipe)
    training = corpus_examples(corpus, task, "train", train.examples, columns)
    held_out = corpus_examples(corpus, task, "validation", train.validation, columns)
    return list(training), list(held_out)


def train_missing(
    recipe: Recipe,
    folder: Path,
    only: Sequence[str] = (),
    on_done: Callable[[str, Adapter], None] = lambda task, adapter: None,
    progress: bool = True,
) -> None:
    """Train each adapter that is `missing`, and save it in its place.

    `folder` is that of the runs, which keeps the state of the training in flight: stopped, it goes
    on when called again. `on_done` is called with each task and its adapter.
    """
    train = _training(recipe)
    read_examples(recipe)  # what is wrong with any of them should be known before hours of work
    data = {part: training_examples(recipe, part) for part in missing(recipe, only)}
    for part, (training, held_out) in data.items():
        place = recipe.adapter_folder(part)
        assert place is not None  # with_places gave it one
        state = folder / STATE / f"adapter-{slug(part)}"
        base = base_of(recipe)
        adapter = train_adapter(
            base,
            recipe.task(part),
            training,
            held_out,
            train.rank,
            train.alpha,
            TrainOptions(**{"learning_rate": default_rate(base), **train.options_for(part)}),
            state,
            progress,
        )
        adapter = replace(adapter, card={**adapter.card, "recipe": recipe.name})
        place.parent.mkdir(parents=True, exist_ok=True)
        save_adapter(adapter, place, torch.float16)
        shutil.rmtree(state, ignore_errors=True)
        on_done(part, adapter)
    forget()


def _training(recipe: Recipe) -> Training:
    assert recipe.train is not None  # or nothing is missing
    return recipe.train


def _parts(recipe: Recipe, tasks: Iterable[str]) -> list[str]:
    wanted = {part.name for task in tasks for part in recipe.task(task).parts}
    return [name for name in recipe.book.names() if name in wanted]
