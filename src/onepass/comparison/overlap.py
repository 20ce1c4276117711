"""Inputs that a recipe both trains and tests on: corpora may share texts."""

from collections.abc import Iterator, Sequence

from onepass.comparison.adapters import missing, training_examples
from onepass.comparison.cells import jobs_of
from onepass.comparison.materials import split_examples, train_examples
from onepass.comparison.recipe import Recipe

_SHOWN = 3


def overlap(recipe: Recipe, only: Sequence[str] = ()) -> str:
    """What there is to say of such inputs; "" if there are none.

    Of each task that is tested on, the examples of all tasks that it is trained together with, and
    those of the adapters of its parts, where they are to be trained. `only` as for `jobs_of`.
    """
    found = list(dict.fromkeys(_found(recipe, only)))
    if not found:
        return ""
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"Tested on what is trained on: {'; '.join(found[:_SHOWN])}{more}"


def _found(recipe: Recipe, only: Sequence[str]) -> Iterator[str]:
    jobs = jobs_of(recipe, only)
    adapters = {
        part: {example.input for example in training_examples(recipe, part)[0]}
        for part in missing(recipe, only)
    }
    for task in dict.fromkeys(cell.task for job in jobs for cell in job.cells):
        trained = {
            f"the training examples of the adapter {part.name}": adapters[part.name]
            for part in recipe.task(task).parts
            if part.name in adapters
        }
        for job in jobs:
            if job.examples and any(cell.task == task for cell in job.cells):
                for other in job.together:
                    examples = train_examples(recipe, other, job.examples)
                    trained.setdefault(f"the training examples of {other}", set()).update(
                        example.input for example in examples
                    )
        for split in recipe.splits:
            tested = {example.input for example in split_examples(recipe, task, split)}
            for what, inputs in trained.items():
                if shared := len(tested & inputs):
                    yield f"{shared} of the {len(tested)} inputs of {task}, {split}, are in {what}"
