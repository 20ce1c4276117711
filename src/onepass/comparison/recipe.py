"""A recipe: the YAML file that says what a comparison is made of.

Paths in a recipe are relative to its file, so that it means the same wherever it is run from.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from onepass.core.errors import OnepassError
from onepass.core.files import read_text
from onepass.core.registry import unknown
from onepass.evaluate.metrics import METRICS
from onepass.methods import METHODS
from onepass.model.assets import embedded_adapter
from onepass.model.quantized import QUANTIZATIONS
from onepass.model.training.options import TrainOptions
from onepass.tasks.benchmark import COMPOSITIONAL_TASKS
from onepass.tasks.book import Tasks, parse_yaml, read_tasks
from onepass.tasks.corpus import corpus_seen_from
from onepass.tasks.task import Task, slug

CorpusName = str | Annotated[tuple[str, ...], Field(min_length=2)]
"""A corpus, or several that are one."""
Corpora = str | dict[str, CorpusName]
"""One corpus for all tasks, or corpora by task, see `corpus_for`."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Given = TypeVar("Given")
_SHOWN = 60  # characters of a wrong value that an error repeats
_TRAINING = {field.name for field in fields(TrainOptions)}


class Training(BaseModel):
    """How the bench trains the task adapters that are not there yet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    corpus: Corpora | None = None
    """Of single tasks; default: the recipe's."""
    activated: bool = False
    """Train activated adapters, see docs/one-reading.md."""
    rank: PositiveInt = 32
    alpha: PositiveFloat | None = None
    examples: PositiveInt | None = None
    """Default: all there are."""
    validation: NonNegativeInt = 500
    options: dict[str, Any] = {}
    """Of training; the learning rate is by default what suits the base's width."""
    by_task: dict[str, dict[str, Any]] = {}
    """Options of single tasks, or of a family ("translate"), over `options`."""

    @field_validator("options")
    @classmethod
    def _known_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name not in _TRAINING:
                raise unknown("training option", name, sorted(_TRAINING))
        return _typed("train", value)

    @field_validator("by_task")
    @classmethod
    def _known_options_by_task(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {task: cls._known_options(options) for task, options in value.items()}

    def options_for(self, task: str) -> dict[str, Any]:
        """The training options of a single task's adapter."""
        return {**self.options, **(for_task(self.by_task, task) or {})}


class Recipe(BaseModel):
    """One comparison: every method on every task, for every budget and seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    base: str = "tiny"
    device: str = "auto"
    dtype: Literal["auto", "fast", "float32", "bfloat16", "float16"] = "auto"
    quantization: str = "none"
    """Of the base, as `load_base` has them."""
    corpus: Corpora = "smalltown"
    columns: dict[str, str] = {}
    """Which columns of rows of your own are what, {input: dialogue}; see docs/data.md."""
    adapters: str | dict[str, str] = {}
    """Single task to adapter folder, or a folder that has one for each ("translate-es"); for the
    base "tiny" the embedded ones stand in."""
    train: Training | None = None
    """If given, adapters that are not there are trained before anything else."""
    tasks: list[str] = Field(default=list(COMPOSITIONAL_TASKS), min_length=1)
    """What is compared. In the file, mappings among the names declare tasks (see docs/tasks.md)."""
    declared: list[dict[str, Any]] = []
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
    keep: bool = False
    """Also keep in the folder of a run what the method made, as a composition, and the examples it
    was tested on."""
    metrics: list[str] | None = None
    """Default: every metric that applies."""
    max_new_tokens: PositiveInt = 128
    batch_size: PositiveInt = 64
    """Of generation; that of training is an option of the method."""
    show: list[Annotated[str, Field(min_length=1)]] = []
    """Texts of yours that every method answers too; the report has the answers side by side."""

    @model_validator(mode="before")
    @classmethod
    def _declarations_apart(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "tasks" not in data:
            return data
        given = data["tasks"]
        if given == "all":
            return {**data, "tasks": list(COMPOSITIONAL_TASKS)}
        if not isinstance(given, list) or not any(isinstance(each, dict) for each in given):
            return data
        declared = [*data.get("declared", []), *(each for each in given if isinstance(each, dict))]
        names = [each for each in given if not isinstance(each, dict)]
        Tasks(declared)  # what is wrong with a declaration comes first
        if not names:
            raise OnepassError("tasks are declared, but none is named to be compared; add its name")
        return {**data, "declared": declared, "tasks": names}

    @model_validator(mode="after")
    def _known_tasks(self) -> "Recipe":
        names = [self.task(name).name for name in self.tasks]
        if names != self.tasks:
            object.__setattr__(self, "tasks", names)
        _check_keys(self.corpus, self.book)
        if self.train is not None:
            _check_keys(self.train.corpus or "", self.book)
            _check_keys(self.train.by_task, self.book)
        for part in [] if isinstance(self.adapters, str) else self.adapters:
            if "+" in part or part not in self.book.names():
                raise unknown("single task", part, self.book.names())
        return self

    @cached_property
    def book(self) -> Tasks:
        """The tasks there are: the benchmark's, and those that the recipe declares."""
        return Tasks(self.declared)

    def task(self, name: str) -> Task:
        """The task called `name`, activated if its adapters are to be; errors as `Tasks.parse`."""
        found = self.book.parse(name)
        return found.activated() if self.train and self.train.activated else found

    @field_validator("methods", mode="before")
    @classmethod
    def _all_methods(cls, value: Any) -> Any:
        return METHODS.names() if value == "all" else value

    @field_validator("methods")
    @classmethod
    def _known_methods(cls, value: list[str]) -> list[str]:
        return [METHODS.get(name).name for name in value]

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: list[str] | None) -> list[str] | None:
        return value and [METRICS.get(name).name for name in value]

    @field_validator("quantization")
    @classmethod
    def _known_quantization(cls, value: str) -> str:
        if value not in QUANTIZATIONS:
            raise unknown("quantization", value, list(QUANTIZATIONS))
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

    def corpus_of(self, task: str) -> CorpusName:
        """The name of the corpus of a task; an `OnepassError` if there is none."""
        found = corpus_for(self.corpus, task)
        if found is None:
            raise OnepassError(
                f"recipe {self.name}, field corpus: there is none for {task}; it has "
                f"{', '.join(self.corpus)}"
            )
        return found

    def adapter_folder(self, task: str) -> Path | None:
        """Where the adapter of a single task is; None if there is none."""
        if isinstance(self.adapters, str):
            found = Path(self.adapters, slug(task))
            return found if found.is_dir() else None
        if task in self.adapters:
            return Path(self.adapters[task])
        if self.base != "tiny" or (self.train and self.train.activated):
            return None
        folder = embedded_adapter(task)
        return folder if folder.is_dir() else None


def corpus_for(corpora: str | Mapping[str, CorpusName], task: str) -> CorpusName | None:
    """The corpus of a task; None if there is none. Corpora by task are as for `for_task`."""
    return corpora if isinstance(corpora, str) else for_task(corpora, task)


def for_task(by_task: Mapping[str, Given], task: str) -> Given | None:
    """What is given for a task: by its own name, its first part, or that part's kind.

    So `{summarize: A, reply: B, translate: C}` has something for each of summarize,
    reply+tone:witty and translate:es, and nothing for tone:witty.
    """
    first = task.partition("+")[0]
    keys = (task, first, first.partition(":")[0])
    return next((by_task[key] for key in keys if key in by_task), None)


def load_recipe(path: Path | str) -> Recipe:
    """The recipe in a YAML file, its paths made absolute.

    Raises `OnepassError` naming the file, and the line or the field with its value.
    """
    path = Path(path)
    return recipe_from(read_text(path), path)


def recipe_from(text: str, path: Path) -> Recipe:
    """The recipe a text holds, its paths made absolute as those of the file `path`."""
    return _resolved(parse_recipe(text, path), path.resolve().parent, path)


def parse_recipe(text: str, path: Path) -> Recipe:
    """The recipe a text holds, its paths as they are written; `path` is named in errors."""
    data = with_tasks_from(recipe_fields(text, path), path)
    for field in data:
        if field not in Recipe.model_fields or field == "declared":
            raise OnepassError(f"{path}: {unknown('field', str(field), list(Recipe.model_fields))}")
    for field in (
        "name",
        *sorted(data, key=lambda f: f != "tasks"),
    ):  # one by one, so that an error can name its field
        _check_field(field, data, path)
    recipe = Recipe.model_validate(data)
    for task in recipe.tasks:
        recipe.corpus_of(task)
    return recipe


def recipe_fields(text: str, path: Path) -> dict[Any, Any]:
    """What a recipe's text says, unchecked."""
    data = parse_yaml(text, path)
    if not isinstance(data, dict):
        raise OnepassError(f"{path}: a recipe is fields with values; write at least a name")
    return data


def with_tasks_from(data: dict[Any, Any], path: Path) -> dict[Any, Any]:
    """The fields, with the tasks of the file that `tasks_from` names declared among `tasks`."""
    if "tasks_from" not in data:
        return data
    rest = {field: value for field, value in data.items() if field != "tasks_from"}
    file = data["tasks_from"]
    if not isinstance(file, str):
        raise OnepassError(f"{path}, field tasks_from: write the name of a file, found {file!r}")
    declared = read_tasks(path.resolve().parent / Path(file).expanduser()).declared()
    named = rest.get("tasks", "all")
    if named == "all":
        named = list(COMPOSITIONAL_TASKS)
    if isinstance(named, list):  # what else it may be is refused where it is checked
        rest["tasks"] = [*(task.to_json() for task in declared), *named]
    return rest


def _check_field(field: str, data: dict[Any, Any], path: Path) -> None:
    if field not in data:
        raise OnepassError(f"{path}, field {field}: it is missing")
    try:
        # Which keys there may be depends on the tasks that are declared.
        tasks = {"tasks": data["tasks"]} if "tasks" in data and field != "name" else {}
        Recipe.model_validate({"name": "unnamed", **tasks, field: data[field]})
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
    return _typed(method, options)


def _check_keys(value: str | Mapping[str, Any], book: Tasks) -> None:
    """Refuse what is given for a task, or of a family of tasks ("translate"), that there is not."""
    families = {name.partition(":")[0] for name in book.names() if ":" in name}
    known = [*book.names(), *sorted(families)]
    for task in [] if isinstance(value, str) else value:
        if "+" in task:
            book.parse(task)
        elif task not in known:
            raise unknown("task", task, known)


def _typed(method: str, options: dict[str, Any]) -> dict[str, Any]:
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
    if isinstance(recipe.adapters, str):
        adapters: str | dict[str, str] = str(folder / Path(recipe.adapters).expanduser())
        places = {"adapters": str(adapters)}
    else:
        adapters = {task: str(folder / Path(p).expanduser()) for task, p in recipe.adapters.items()}
        places = {f"adapters.{task}": place for task, place in adapters.items()}
    for field, place in places.items():
        if not Path(place).is_dir() and recipe.train is None:
            raise OnepassError(
                f"{path}, field {field}: there is no folder {place}; give the folder of an "
                "adapter in PEFT format, relative to the recipe"
            )
    train = recipe.train
    if train is not None and train.corpus is not None:
        train = train.model_copy(update={"corpus": _resolved_corpora(train.corpus, folder)})
    return recipe.model_copy(
        update={
            "adapters": adapters,
            "base": _resolved_base(recipe.base, folder, path),
            "corpus": _resolved_corpora(recipe.corpus, folder),
            "train": train,
        }
    )


def _resolved_base(base: str, folder: Path, path: Path) -> str:
    local = folder / Path(base).expanduser()
    if base != "tiny" and local.exists():
        return str(local)
    if base.startswith((".", "~", "/")) or base.count("/") > 1:
        raise OnepassError(
            f"{path}, field base: there is no folder {local}; give tiny, a hub name, or a model's "
            "folder or GGUF file, relative to the recipe"
        )
    return base


def _resolved_corpora(corpora: Corpora, folder: Path) -> Corpora:
    def resolved(name: CorpusName) -> CorpusName:
        if isinstance(name, str):
            return corpus_seen_from(folder, name)
        return tuple(corpus_seen_from(folder, each) for each in name)

    if isinstance(corpora, dict):
        return {task: resolved(name) for task, name in corpora.items()}
    return corpus_seen_from(folder, corpora)
