"""Recipes: what a good one means, and what a bad one is told."""

import shutil
from pathlib import Path

import pytest

from onepass.comparison.changes import changed_text
from onepass.comparison.materials import train_examples
from onepass.comparison.recipe import Recipe, load_recipe, parse_recipe, recipe_from
from onepass.core.errors import OnepassError
from onepass.methods import METHODS
from onepass.tasks.benchmark import COMPOSITIONAL_TASKS
from onepass.tasks.book import read_tasks

REAL_TASKS = Path(__file__).parent.parent / "recipes" / "real" / "tasks.yaml"
SHIPPED = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_recipes_are_sound(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert recipe.base == "tiny"


def test_the_benchmark_is_every_method_on_every_task() -> None:
    recipe = load_recipe(next(path for path in SHIPPED if path.stem == "smalltown"))
    assert recipe.tasks == list(COMPOSITIONAL_TASKS)
    assert recipe.methods == METHODS.names()
    assert recipe.splits == ["test", "test-wordings", "test-unseen"]


def test_a_name_is_enough(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "name: all"))
    assert recipe == Recipe(name="all")
    assert recipe.tasks == list(COMPOSITIONAL_TASKS)


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    for folder in ("models/small", "adapters/es"):
        (tmp_path / folder).mkdir(parents=True)
    recipe = load_recipe(
        written(
            tmp_path,
            "{name: n, base: models/small, corpus: data.jsonl, "
            "adapters: {'translate:es': adapters/es}}",
        )
    )
    assert Path(recipe.base) == tmp_path / "models/small"
    assert recipe.corpus == str(tmp_path / "data.jsonl")
    assert recipe.adapter_folder("translate:es") == tmp_path / "adapters/es"
    assert recipe.adapter_folder("summarize") is None
    named = load_recipe(written(tmp_path, "{name: n, base: org/model, corpus: 'dialogsum:d'}"))
    assert named.base == "org/model"
    assert named.corpus == f"dialogsum:{tmp_path / 'd'}"


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "{name: n, options: {lc: {learning_rate: 2e-2}}}"))
    assert recipe.options == {"lc": {"learning_rate": 0.02}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a\n  tasks: [", "mine.yaml, line 2: not YAML"),
        ("[" * 100_000, "mine.yaml: not YAML .*recursion"),
        ("- a", "mine.yaml: a recipe is fields with values"),
        ("tasks: all", "mine.yaml, field name: it is missing"),
        ("name: a/b", "field name: .*found 'a/b'"),
        ("{name: a, exampels: [1]}", "unknown field 'exampels': did you mean 'examples'"),
        ("{name: a, tasks: [summarise]}", "field tasks: unknown task .*'summarize'"),
        ("{name: a, tasks: []}", "field tasks: .*found \\[\\]"),
        (
            "{name: a, methods: [lc+++]}",
            "field methods: unknown method 'lc\\+\\+\\+': did you mean",
        ),
        ("{name: a, methods: [lc, lc]}", "field methods: 'lc' stands there twice"),
        ("{name: a, metrics: [rogueL]}", "field metrics: unknown metric 'rogueL': did you mean"),
        ("{name: a, adapters: {translate:it: x}}", "unknown single task 'translate:it'"),
        (
            "{name: a, adapters: {translate:es: nowhere}}",
            "adapters.translate:es: there is no folder",
        ),
        ("{name: a, options: {lc: {rank: 4}}}", "field options: unknown option of lc 'rank'"),
        ("{name: a, options: {linear: {epochs: 4}}}", "unknown option of linear 'epochs'"),
        ("{name: a, options: {lc: {epochs: many}}}", "lc.epochs: .*found 'many'"),
        ("{name: a, options: {lc: {epochs: -1}}}", "field options: lc: .*epochs is -1"),
        ("{name: a, examples: [0]}", "field examples.0: .*found 0"),
        ("{name: a, test: lots}", "field test: .*found 'lots'"),
    ],
)
def test_an_error_names_file_field_and_value(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(OnepassError, match=told) as error:
        load_recipe(written(tmp_path, text))
    assert "mine.yaml" in str(error.value)


def test_a_missing_recipe_is_told(tmp_path: Path) -> None:
    with pytest.raises(OnepassError, match=r"cannot read .*none\.yaml"):
        load_recipe(tmp_path / "none.yaml")


def test_a_change_of_a_field_that_nests_too_deep_is_told(tmp_path: Path) -> None:
    with pytest.raises(OnepassError, match=r"--set base=.*: the value is not YAML"):
        changed_text("name: a", tmp_path / "mine.yaml", ["base=" + "[" * 9999])


def test_a_recipe_declares_tasks_and_columns_of_its_own(tmp_path: Path) -> None:
    text = """
name: mine
tasks:
  - {name: title, prompt: "Titolo: {text}", metric: chrf}
  - name: translate:it
    role: auxiliary
    phrase: in Italian
    instruction: Put it in Italian.
    language: it
  - title+translate:it
columns: {input: chat, target: titolo}
corpus: {title: rows.csv}
adapters: {title: a, "translate:it": a}
"""
    (tmp_path / "a").mkdir()
    (tmp_path / "rows.csv").write_text(
        "chat,titolo\n" + "".join(f"c{n},t{n}\n" for n in range(30)), encoding="utf-8"
    )
    recipe = recipe_from(text, tmp_path / "mine.yaml")
    assert recipe.tasks == ["title+translate:it"]
    task = recipe.task("title+translate:it")
    assert task.message("T") == "Titolo: T\n\nIn Italian."
    assert (task.metric, task.language) == ("chrf", "it")
    (first, *_) = train_examples(recipe, task.name, 3)
    assert (first.input[0], first.target[0]) == ("c", "t")
    assert [part.name for part in task.parts if recipe.adapter_folder(part.name)] == [
        "title", "translate:it",
    ]  # fmt: skip
    with pytest.raises(OnepassError, match="field tasks: task 1: 'reply' is the benchmark's"):
        recipe_from("name: x\ntasks: [{name: reply, instruction: Hi.}]", tmp_path / "x.yaml")


def test_a_recipe_takes_tasks_from_a_file(tmp_path: Path) -> None:
    shutil.copy(REAL_TASKS, tmp_path / "tasks.yaml")
    task = "translate:de+tone:formal"
    (tmp_path / "in").mkdir()
    text = f"name: n\ntasks_from: ../tasks.yaml\ntasks: [{task}]\n"
    recipe = load_recipe(written(tmp_path / "in", text))
    assert recipe.tasks == [task]
    assert recipe.task(task) == read_tasks(REAL_TASKS).parse(task)
    wanted = "Translate the text into German in a formal register."
    assert recipe.task(task).instruction == wanted
    # What a folder of runs keeps of a recipe needs no other file.
    kept = changed_text(text, tmp_path / "in" / "mine.yaml", [])
    assert parse_recipe(kept, Path("elsewhere.yaml")) == recipe
    both = "tasks: [{name: t, instruction: T.}, t+tone:informal]\ntasks_from: tasks.yaml\nname: n"
    assert load_recipe(written(tmp_path, both)).task("t+tone:informal").parts[0].name == "t"


@pytest.mark.parametrize(
    ("value", "words"),
    [("[a]", "field tasks_from: write the name"), ("none.yaml", "none.yaml")],
)
def test_a_file_of_tasks_that_is_none_is_told(tmp_path: Path, value: str, words: str) -> None:
    with pytest.raises(OnepassError, match=words):
        load_recipe(written(tmp_path, f"name: n\ntasks_from: {value}"))


def test_training_options_of_a_task_go_over_those_of_all(tmp_path: Path) -> None:
    text = """
name: mine
train:
  options: {max_steps: 80, learning_rate: 2e-3}
  by_task: {translate: {max_steps: 100}, summarize: {batch_size: 4}}
tasks: [summarize+translate:es]
"""
    recipe = recipe_from(text, tmp_path / "mine.yaml")
    assert recipe.train is not None
    assert recipe.train.options_for("translate:es") == {"max_steps": 100, "learning_rate": 2e-3}
    assert recipe.train.options_for("summarize")["max_steps"] == 80
    assert recipe.train.options_for("summarize")["batch_size"] == 4
    with pytest.raises(OnepassError, match=r"field train.*translat"):
        recipe_from(text.replace("{translate:", "{translat:"), tmp_path / "mine.yaml")
    with pytest.raises(OnepassError, match=r"training option.*max_step"):
        recipe_from(text.replace("{max_steps: 100}", "{max_step: 100}"), tmp_path / "mine.yaml")
