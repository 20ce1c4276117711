"""The command lines of the paper's program (arXiv 2507.16083) as recipes: a translation of flags.

The folders are the program's own, below one root:

    data/            its data sets, see `onepass.api.data_sets`
    stored_models/   adapters, in PEFT format; what a merge or a calibration made, a composition
    output/NAME/     the runs of experiment NAME, as `onepass bench` leaves them, and results.json
    predictions/NAME/   test.jsonl, validation.jsonl
    logs/NAME.log    what was run, and when
"""

import re
import shlex
import shutil
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from onepass.adapters.composition import COMPOSITION_FILES
from onepass.adapters.merging import MERGES
from onepass.adapters.storage import check_replaceable
from onepass.api.benching import Bench
from onepass.api.data_sets import DataSet, corpus_of, data_set
from onepass.comparison.adapters import with_places
from onepass.comparison.cells import SHOWN_EXAMPLES
from onepass.comparison.changes import changed_text
from onepass.comparison.recipe import recipe_from
from onepass.comparison.runs import COMPOSITION, PREDICTIONS, load_runs
from onepass.core.errors import OnepassError
from onepass.core.files import atomic_folder, read_jsonl, write_json, write_jsonl
from onepass.core.registry import unknown
from onepass.methods import METHODS
from onepass.methods.multi_step import PROMPT_STYLES
from onepass.tasks.corpus import SPLITS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
SECONDARY = {"translation": "translate", "tone": "tone", "tone_adjustment": "tone"}
STRATEGIES = {
    **{name.replace("-", "_"): name for name in (*MERGES, "lorahub", "lm-cocktail", "dam")},
    "learnable_calibration": "lc",
    "learnable_calibration_pp": "lc++",
}
"""--lora_merge_strategy, and the method that is here."""
OPTIONS: dict[str, dict[str, Any]] = {
    "dam": {"max_steps": 200},
    "joint-expert": {"epochs": 1, "rank": 32},
    "lc": {"epochs": 1},
    "lc++": {"epochs": 1, "rank": 4},
}
"""As in recipes/paper."""
NEEDS = {
    "secondary_task": "secondary_task_dataset",
    "secondary_task_dataset": "secondary_task",
    "lora_merge_strategy": "secondary_task",
    "multi_step_prompts": "secondary_task",
    "multi_task_train_targets": "secondary_task",
    "lora_merge_modules": "lora_merge_strategy",
    "merge_datasets": "lora_merge_strategy",
    "num_examples_merge": "lora_merge_strategy",
    "for_each_component": "lora_merge_strategy",
    "secondary_stored_model_name": "multi_step_prompts",
    "prompt_style": "multi_step_prompts",
}
"""A flag, and the one without which it means nothing."""


@dataclass(frozen=True)
class Flags:
    """The flags of run_experiment.py, by their names."""

    experiment_name: str
    model_name_or_path: str
    dataset: str
    stored_model_name: str | None = None
    tgt_lang: str | None = None
    secondary_task: str | None = None
    secondary_task_dataset: str | None = None
    secondary_stored_model_name: str | None = None
    zero_shot: bool = False
    lora_merge_strategy: str | None = None
    lora_merge_modules: tuple[str, ...] = ()
    merge_datasets: tuple[str, ...] = ()
    num_examples_merge: int | None = None
    for_each_component: bool = False
    multi_step_prompts: bool = False
    prompt_style: str | None = None
    multi_task_train_targets: bool = False
    gradient_accumulation_steps: int | None = None
    do_train: bool = False
    do_valid: bool = False
    do_predict: bool = False

    def __str__(self) -> str:
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value:
                listed = value if isinstance(value, tuple) else () if value is True else (value,)
                words += [f"--{field.name}", *map(str, listed)]
        return shlex.join(words)


@dataclass(frozen=True)
class Experiment:
    """A recipe's `text`, what is still `missing` for it to run, and where its results go.

    remark: what there is to say of its data, "" if nothing. trains: the stored model that it
    trains. composes: the stored model that is made of what the method gives. tests: whether
    anything is tested.
    """

    name: str
    root: Path
    text: str
    missing: tuple[str, ...]
    remark: str
    trains: Path | None
    composes: Path | None
    tests: bool

    @property
    def folder(self) -> Path:
        return self.root / "output" / self.name

    @property
    def log(self) -> Path:
        return self.root / "logs" / f"{self.name}.log"


def translate(flags: Flags, root: Path, changes: tuple[str, ...] = ()) -> Experiment:
    """The experiment that the flags ask for, below `root`; `changes` of its recipe, FIELD=VALUE.

    Raises `OnepassError` for names that are not known, and flags that mean nothing together.
    """
    root = root.absolute()
    _check(flags)
    method = _method(flags)
    asked = _asked(flags)
    task, parts = asked.task, asked.task.split("+")
    corpus, without_data = corpus_of(asked, root / "data")
    names = dict(zip(parts, _stored(flags, method), strict=False))
    places = {part: root / "stored_models" / name for part, name in names.items()}
    trains = places[parts[0]] if flags.do_train and method == "main-adapter" else None
    missing = [without_data] * bool(without_data)
    for place in places.values():
        if not place.is_dir() and place != trains:
            missing.append(
                f"there is no stored model {place}; train it first, by a command with --do_train "
                f"and --stored_model_name {place.name}, or put an adapter in PEFT format there"
            )
    learns = METHODS.get(method).learns
    options = dict(OPTIONS.get(method, {}))
    if flags.gradient_accumulation_steps and learns:
        options["accumulation"] = flags.gradient_accumulation_steps
    if flags.prompt_style:
        options["prompt_style"] = flags.prompt_style
    if flags.num_examples_merge and "shots" in METHODS.get(method).options:
        options["shots"] = flags.num_examples_merge
    training = {"epochs": 1, "accumulation": flags.gradient_accumulation_steps or 1}
    tested = ["test"] * flags.do_predict + ["validation"] * flags.do_valid
    composes = None
    if flags.lora_merge_strategy or flags.multi_task_train_targets:
        composes = flags.stored_model_name if method == "joint-expert" else flags.experiment_name
    recipe = {
        "name": flags.experiment_name,
        "base": _base(flags.model_name_or_path),
        "corpus": corpus,
        "adapters": {part: str(place) for part, place in places.items()},
        **({"train": {"rank": 32, "examples": 10_000, "options": training}} if trains else {}),
        "tasks": [task],
        "methods": [method],
        **({"options": {method: options}} if options else {}),
        **({"examples": [flags.num_examples_merge or 10_000]} if learns else {}),
        "validation": 500,
        "test": 500,
        "splits": tested or ["validation"],  # a joint expert is tested on something
        "max_new_tokens": 128,
        **({"keep": True} if composes else {}),
    }
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    text = changed_text(text, root / "recipe.yaml", changes)
    return Experiment(
        flags.experiment_name,
        root,
        f"# onepass experiment {flags}\n{text}",
        tuple(missing),
        f"reading the public copy of {asked.name}; {root / 'data' / asked.name} would come first"
        if corpus == asked.kind
        else "",
        trains,
        root / "stored_models" / composes if composes else None,
        bool(tested) or method == "joint-expert",
    )


def open_experiment(found: Experiment) -> Bench:
    """The experiment as a bench, ready to run; an `OnepassError` if anything is missing."""
    if found.missing:
        raise OnepassError(found.missing[0])
    recipe = with_places(recipe_from(found.text, found.root / "recipe.yaml"), found.folder)
    bench = Bench(recipe, found.text, found.folder, (), frozenset())
    if found.composes and recipe.methods != ["joint-expert"]:
        check_replaceable(found.composes, COMPOSITION_FILES)
    elif found.composes and found.composes.exists() and bench.plan().jobs:
        raise OnepassError(
            f"{found.composes} exists; remove it to train it anew, or, to test it, leave out "
            "--do_train and --multi_task_train_targets"
        )
    return bench


def keep_results(found: Experiment) -> list[dict[str, Any]]:
    """Put the results, predictions and the stored model of finished runs in their places.

    Returns the results: a row for each run and split, its metrics as shares of 1.
    """
    recipe, runs = load_runs(found.folder)
    results = [
        {
            "method": run.method, "task": run.task, "examples": run.examples, "seed": run.seed,
            "split": split, "count": result.count, **result.means,
        }
        for run in runs for split, result in run.splits.items()
    ]  # fmt: skip
    write_json(found.folder / "results.json", results)
    rows = [
        {**row, "examples": run.examples, "seed": run.seed}
        for run in runs
        for _, row in read_jsonl(found.folder / run.cell.place / PREDICTIONS)
    ]
    for split in {*recipe.splits, *SPLITS}:
        place = found.root / "predictions" / found.name / f"{split}.jsonl"
        place.unlink(missing_ok=True)  # of an earlier experiment of this name
        if split in recipe.splits:
            write_jsonl(place, [_without_split(row) for row in rows if row["split"] == split])
    if found.composes:
        made = found.folder / runs[0].cell.place / COMPOSITION
        if runs[0].method == "joint-expert":
            made = made / "adapters" / "0"
        with atomic_folder(found.composes) as temporary:
            shutil.copytree(made, temporary, dirs_exist_ok=True)
    return results


def _without_split(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "split"}


def _check(flags: Flags) -> None:
    names = (
        flags.experiment_name, flags.stored_model_name, flags.secondary_stored_model_name,
        *flags.lora_merge_modules,
    )  # fmt: skip
    for name in filter(None, names):
        if not NAME.fullmatch(name):
            raise OnepassError(f"{name!r} is no file name; use letters, digits, ., - and _")
    for flag, needed in NEEDS.items():
        if getattr(flags, flag) and not getattr(flags, needed):
            raise OnepassError(f"--{flag} means nothing without --{needed}; add it")
    ways = ("zero_shot", "lora_merge_strategy", "multi_step_prompts", "multi_task_train_targets")
    given = [f"--{way}" for way in ways if getattr(flags, way)]
    if len(given) > 1:
        raise OnepassError(f"{' and '.join(given)} are different methods; leave all but one out")
    if flags.do_train and not flags.multi_task_train_targets and (given or flags.secondary_task):
        with_ = given[0] if given else "--secondary_task"
        raise OnepassError(
            f"--do_train means nothing with {with_}: it trains one LoRA, on --dataset alone, or "
            "with --multi_task_train_targets on both tasks at once"
        )
    if flags.multi_task_train_targets and not flags.do_train:
        raise OnepassError(
            "--multi_task_train_targets means nothing without --do_train; add it, or, to test a "
            "joint expert that is stored, give only its --stored_model_name"
        )
    if not (flags.do_train or flags.do_valid or flags.do_predict):
        raise OnepassError("nothing to do; add --do_train, --do_valid or --do_predict")
    if not flags.stored_model_name and not flags.zero_shot:
        raise OnepassError("--stored_model_name is missing: a folder in stored_models")


def _method(flags: Flags) -> str:
    strategy = flags.lora_merge_strategy
    if strategy and strategy not in STRATEGIES:
        raise unknown("--lora_merge_strategy", strategy, list(STRATEGIES))
    method = (
        "zero-shot" if flags.zero_shot
        else STRATEGIES[strategy] if strategy
        else "multi-step" if flags.multi_step_prompts
        else "joint-expert" if flags.multi_task_train_targets
        else "main-adapter"
    )  # fmt: skip
    learns = METHODS.get(method).learns
    if flags.for_each_component and method not in ("lc", "lc++"):
        raise OnepassError(f"--for_each_component means nothing with {strategy}; leave it out")
    shown = "shots" in METHODS.get(method).options
    for flag in ("merge_datasets", "num_examples_merge"):
        if getattr(flags, flag) and not (learns or shown):
            raise OnepassError(f"--{flag} means nothing with {strategy}, which sees no examples")
    if (flags.num_examples_merge or 0) > SHOWN_EXAMPLES and not learns:
        raise OnepassError(f"--num_examples_merge with {strategy} is at most {SHOWN_EXAMPLES}")
    if flags.gradient_accumulation_steps and not (learns or flags.do_train):
        raise OnepassError("--gradient_accumulation_steps means nothing here: nothing is trained")
    return method


def _asked(flags: Flags) -> DataSet:
    """The data set that says what is done: of a pair of tasks, the secondary one's."""
    main, pair = data_set(flags.dataset), flags.secondary_task_dataset
    asked = data_set(pair or flags.dataset)
    if flags.secondary_task:
        kind = SECONDARY.get(flags.secondary_task)
        if kind is None:
            raise unknown("--secondary_task", flags.secondary_task, list(SECONDARY))
        if not asked.task.startswith(f"{main.task}+{kind}:"):
            raise OnepassError(
                f"--secondary_task_dataset {pair} is of {asked.task}, not of {main.task} and "
                f"{flags.secondary_task}; give one of both, as dialogsum_es for dialogsum"
            )
    for name in flags.merge_datasets:
        if flags.merge_datasets != (pair,):
            raise OnepassError(
                f"--merge_datasets {name} is not the --secondary_task_dataset, {pair}; a merge "
                "learns what it is tested on (recipes/paper/shared.yaml has one for many)"
            )
    if flags.tgt_lang and not asked.task.endswith(f"translate:{flags.tgt_lang}"):
        raise OnepassError(f"--tgt_lang {flags.tgt_lang}: {asked.name} is of {asked.task}")
    return asked


def _stored(flags: Flags, method: str) -> list[str]:
    """The stored models that the method needs: the main task's, then the auxiliary one's."""
    main, modules = flags.stored_model_name or "", flags.lora_merge_modules
    if method in ("zero-shot", "joint-expert"):
        return []
    if method == "main-adapter":
        return [main]
    if method == "multi-step":
        if flags.prompt_style not in (None, *PROMPT_STYLES):
            raise unknown("--prompt_style", str(flags.prompt_style), list(PROMPT_STYLES))
        if not flags.secondary_stored_model_name:
            raise OnepassError("--secondary_stored_model_name is missing, for the second step")
        return [main, flags.secondary_stored_model_name]
    if len(set(modules)) != 2 or len(modules) != 2 or main not in modules:
        raise OnepassError(
            f"--lora_merge_modules is {' '.join(modules) or 'missing'}; give two stored models, "
            f"{main}, which is the main task's (--stored_model_name), and the auxiliary one's"
        )
    return [main, next(name for name in modules if name != main)]


def _base(name: str) -> str:
    """The base, a local one by its whole path."""
    path = Path(name).expanduser()
    return str(path.absolute()) if name != "tiny" and path.exists() else name
