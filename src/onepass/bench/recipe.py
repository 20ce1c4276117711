"""A recipe: the YAML file that says what a comparison is made of.

Paths in a recipe are relative to its file, so that it means the same wherever it is run from.
"""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from onepass.core.errors import OnepassError
from onepass.core.files import read_text
from onepass.core.registry import unknown
from onepass.evaluate.metrics import METRICS
from onepass.methods import METHODS
from onepass.model.assets import embedded_adapter
from onepass.model.options import TrainOptions
from onepass.tasks.corpus import corpus_seen_from
from onepass.tasks.task import COMPOSITIONAL_TASKS, SINGLE_TASKS, parse_task

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_SHOWN = 60  # characters of a wrong value that an error repeats
_TRAINING = {field.name for field in fields(TrainOptions)}


class Recipe(BaseModel):
    """One comparison: every method on every task, for every budget and seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    base: str = "tiny"
    corpus: str = "smalltown"
    adapters: dict[str, str] = {}
    """Single task to adapter folder; for the base "tiny" the embedded ones stand in."""
    tasks: list[str] = Field(default=list(COMPOSITIONAL_TASKS), min_length=1)
    methods: list[str] = Field(default_factory=METHODS.names, min_length=1)
    options: dict[str, dict[str, Any]] = {}
    """Method to its own options, which only that method ever sees."""
    examples: list[PositiveInt] = Field(default=[4000], min_length=1)
    """Budgets: how many training examples; a method that does not learn runs once all the same."""
    validation: NonNegativeInt = 200
    test: PositiveInt = 200
    """Examples per split to be tested on."""
    splits: list[Name] = Field(default=["test"], min_length=1)
    """The first is what the report is about; later ones are reported apart."""
    seeds: list[NonNegativeInt] = Field(default=[0], min_length=1)
    metrics: list[str] | None = None
    """Default: every metric that applies."""
    max_new_tokens: PositiveInt = 128
    batch_size: PositiveInt = 64
    """Of generation; that of training is an option of the method."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _all_tasks(cls, value: Any) -> Any:
        return list(COMPOSITIONAL_TASKS) if value == "all" else value

    @field_validator("methods", mode="before")
    @classmethod
    def _all_methods(cls, value: Any) -> Any:
        return METHODS.names() if value == "all" else value

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, value: list[str]) -> list[str]:
        return [parse_task(name).name for name in value]

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, value: list[str]) -> list[str]:
        return [METHODS.get(name).name for name in value]

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: list[str] | None) -> list[str] | None:
        return value and [METRICS.get(name).name for name in value]

    @field_validator("adapters")
    @classmethod
    def _single_tasks(cls, value: dict[str, str]) -> dict[str, str]:
        for task in value:
            if task not in SINGLE_TASKS:
                raise unknown("single task", task, list(SINGLE_TASKS))
        return value

    @field_validator("options")
    @classmethod
    def _known_options(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {name: _checked(name, options) for name, options in value.items()}

    @field_validator("tasks", "methods", "examples", "splits", "seeds", "metrics")
    @classmethod
    def _no_repeats(cls, value: list[Any] | None) -> list[Any] | None:
        for item in value or []:
            if (value or []).count(item) > 1:
                raise OnepassError(f"{item!r} stands there twice")
        return value

    def adapter_folder(self, task: str) -> Path | None:
        """Where the adapter of a single task is; None if there is none."""
        if task in self.adapters:
            return Path(self.adapters[task])
        if self.base != "tiny":
            return None
        folder = embedded_adapter(task)
        return folder if folder.is_dir() else None


def load_recipe(path: Path | str) -> Recipe:
    """The recipe in a YAML file, its paths made absolute.

    Raises `OnepassError` naming the file, and the line or the field with its value.
    """
    path = Path(path)
    return _resolved(parse_recipe(read_text(path), path), path.resolve().parent, path)


def parse_recipe(text: str, path: Path) -> Recipe:
    """The recipe a text holds, its paths as they are written; `path` is named in errors."""
    try:
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise OnepassError(f"{path}{line}: not YAML ({error.problem})") from error
    except yaml.YAMLError as error:
        raise OnepassError(f"{path}: not YAML ({error})") from error
    if not isinstance(data, dict):
        raise OnepassError(f"{path}: a recipe is fields with values; write at least a name")
    for field in data:
        if field not in Recipe.model_fields:
            raise OnepassError(f"{path}: {unknown('field', str(field), list(Recipe.model_fields))}")
    for field in ("name", *data):  # one by one, so that an error can name its field
        _check_field(field, data, path)
    return Recipe.model_validate(data)


def _check_field(field: str, data: dict[Any, Any], path: Path) -> None:
    if field not in data:
        raise OnepassError(f"{path}, field {field}: it is missing")
    try:
        Recipe.model_validate({"name": "unnamed", field: data[field]})
    except OnepassError as error:
        raise OnepassError(f"{path}, field {field}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        value = repr(first["input"])[:_SHOWN]
        raise OnepassError(f"{path}, field {place}: {first['msg']} (found {value})") from error


def _checked(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options of a method, those of training in their proper types."""
    METHODS.get(method).check_options(options)
    training = {name: value for name, value in options.items() if name in _TRAINING}
    try:
        # YAML reads 2e-2 as text, and pydantic knows better.
        typed = TypeAdapter(TrainOptions).validate_python(training)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in (method, *first["loc"]))
        value = repr(first["input"])[:_SHOWN]
        raise OnepassError(f"{place}: {first['msg']} (found {value})") from error
    except OnepassError as error:
        raise OnepassError(f"{method}: {error}") from error
    return {**options, **{name: getattr(typed, name) for name in training}}


def _resolved(recipe: Recipe, folder: Path, path: Path) -> Recipe:
    adapters = {task: str(folder / Path(p).expanduser()) for task, p in recipe.adapters.items()}
    for task, place in adapters.items():
        if not Path(place).is_dir():
            raise OnepassError(
                f"{path}, field adapters.{task}: there is no folder {place}; give the folder of an "
                "adapter in PEFT format, relative to the recipe"
            )
    local = folder / Path(recipe.base).expanduser()
    base = str(local) if recipe.base != "tiny" and local.is_dir() else recipe.base
    corpus = corpus_seen_from(folder, recipe.corpus)
    return recipe.model_copy(update={"adapters": adapters, "base": base, "corpus": corpus})
