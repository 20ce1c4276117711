"""Recipes changed on the command line, adapters trained on the way, and plans."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench_kit import TASKS, write_recipe
from cli_kit import Done, onepass
from onepass.adapters.adapter import load_adapter
from onepass.adapters.composition import Composition
from onepass.comparison.adapters import missing, train_missing, with_places
from onepass.comparison.bench import make_plan
from onepass.comparison.changes import changed_text
from onepass.comparison.estimate import estimate
from onepass.comparison.materials import corpus_examples, fingerprint
from onepass.comparison.overlap import overlap
from onepass.comparison.recipe import Recipe, corpus_for, load_recipe, parse_recipe, recipe_from
from onepass.comparison.runs import load_run
from onepass.core.errors import OnepassError
from onepass.methods import METHODS, Setting
from onepass.model.attach import folded
from onepass.model.generate import generate, run
from onepass.model.load import Base
from onepass.model.reading import Readings
from onepass.model.training import fit
from onepass.tasks.book import parse_task
from onepass.tasks.task import BARE

RECIPES = Path(__file__).parent.parent / "recipes"
TRAIN = {"rank": 2, "validation": 4, "options": {"max_steps": 2, "batch_size": 4, "eval_every": 1}}
TASK = TASKS[0]


@pytest.fixture
def recipe(tmp_path: Path, base_folder: Path, make_adapter: Any) -> Path:
    return write_recipe(tmp_path / "mine", base_folder, make_adapter, tasks=[TASK])


@pytest.fixture
def untrained(recipe: Path) -> Path:
    """A recipe whose adapters have to be trained."""
    shutil.rmtree(recipe.parent / "adapters")
    fields = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**fields, "adapters": {}, "train": TRAIN}))
    return recipe


# ---------------------------------------------------------------- recipes of the paper


@pytest.mark.parametrize("path", sorted((RECIPES / "paper").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_recipe_of_the_paper_is_a_cut_of_the_whole(path: Path) -> None:
    recipe, whole = load_recipe(path), load_recipe(RECIPES / "paper" / "all.yaml")
    assert recipe.name == f"paper-{path.stem}"
    assert set(recipe.methods) <= set(whole.methods)
    assert recipe.train is not None
    assert whole.train is not None
    assert recipe.train.options == whole.train.options
    if path.stem != "adapters":
        assert recipe.tasks == whole.tasks
        assert (recipe.corpus, recipe.train) == (whole.corpus, whole.train)
        for field in ("base", "examples", "validation", "test", "max_new_tokens"):
            assert getattr(recipe, field) == getattr(whole, field), field
        for method in {*recipe.methods} - {"multi-step"}:  # the paper's own style
            assert recipe.options.get(method) == whole.options.get(method)


def test_the_recipes_of_the_paper_are_all_of_its_methods() -> None:
    whole, *cuts = (load_recipe(RECIPES / "paper" / "all.yaml"), *_cuts())
    assert {m for cut in cuts for m in cut.methods} == {*whole.methods} - {"linear"}


def _cuts() -> list[Recipe]:
    paths = (RECIPES / "paper").glob("*.yaml")
    return [load_recipe(path) for path in paths if path.stem not in ("all", "adapters")]


# ---------------------------------------------------------------- corpora by task


def test_a_task_takes_the_corpus_that_fits_it_best() -> None:
    corpora = {"summarize": "a", "translate": "b", "tone:witty": "c", "reply+tone:witty": "d"}
    found = {
        task: corpus_for(corpora, task)
        for task in ("summarize", "summarize+translate:es", "translate:fr", "tone:witty")
    }
    assert list(found.values()) == ["a", "a", "b", "c"]
    assert corpus_for(corpora, "reply+tone:witty") == "d"
    assert corpus_for(corpora, "tone:casual") is None
    assert corpus_for("one", "tone:casual") == "one"


def test_one_corpus_named_twice_leaves_the_fingerprints_as_they_are(recipe: Path) -> None:
    one = load_recipe(recipe)
    assert isinstance(one.corpus, str)
    two = one.model_copy(update={"corpus": {"summarize": one.corpus, "reply": one.corpus}})
    marks = [
        [fingerprint(r, cell, job) for job in make_plan(r, recipe.parent / "x").jobs
         for cell in job.cells]
        for r in (one, two, one.model_copy(update={"device": "cpu"}))
    ]  # fmt: skip
    assert marks[0] == marks[1] == marks[2]
    half = one.model_copy(update={"dtype": "bfloat16"})
    job = make_plan(half, recipe.parent / "x").jobs[0]
    assert fingerprint(half, job.cells[0], job) not in marks[0]


BAD = {
    "corpus: {sumarize: a}": ["field corpus", "did you mean 'summarize'"],
    "corpus: {reply: a}\ntasks: [summarize+translate:es]": ["field corpus", "none for summarize"],
    "corpus: {summarize: [a]}": ["field corpus"],
    "adapters: nowhere": ["field adapters", "there is no folder"],
    "base: ./nowhere": ["field base", "there is no folder"],
    "base: /a/b/c": ["field base", "there is no folder /a/b/c"],
    "dtype: bfloat15": ["field dtype", "bfloat15"],
    "quantization: 3bit": ["field quantization", "3bit"],
    "train: {ranks: 3}": ["field train.ranks"],
    "train: {options: {learning_rat: 1}}": ["field train", "did you mean 'learning_rate'"],
    "train: {options: {learning_rate: -1}}": ["field train", "learning_rate"],
    "train: {corpus: {summarise: x}}": ["field train", "did you mean 'summarize'"],
    "options: {multi-step: {prompt_stile: empty}}": ["did you mean 'prompt_style'"],
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_in_a_recipe_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(OnepassError) as refused:
        recipe_from(f"name: x\n{text}\n", tmp_path / "x.yaml")
    for word in ["x.yaml", *BAD[text]] if "corpus: {reply" not in text else BAD[text]:
        assert word in str(refused.value)


# ---------------------------------------------------------------- --set


def test_fields_are_set_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    text = "# a remark\nname: x\noptions: {lc: {max_steps: 3}}\n"
    path = tmp_path / "elsewhere" / "x.yaml"
    changes = [
        "base=model", "options.lc.max_steps=5", "options.lc++.rank=2", "adapters=made",
        "tasks=[summarize+translate:es]", "corpus.summarize=dialogsum:model", "seeds=[1, 2]",
    ]  # fmt: skip
    fields = yaml.safe_load(changed_text(text, path, changes))
    assert fields["base"] == str(tmp_path / "model")
    assert fields["adapters"] == str(tmp_path / "made")
    assert fields["corpus"] == {"summarize": f"dialogsum:{tmp_path / 'model'}"}
    assert fields["options"] == {"lc": {"max_steps": 5}, "lc++": {"rank": 2}}
    assert parse_recipe(yaml.safe_dump(fields), path).seeds == [1, 2]
    assert changed_text(text, path, []) == text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("basis=tiny", ["did you mean 'base'"]),
        ("base", ["--set base", "FIELD=VALUE"]),
        ("=tiny", ["FIELD=VALUE"]),
        ("name.x=1", ["--set name.x=1", "name is 'micro'"]),
        ("tasks=[a", ["--set tasks=[a", "not YAML"]),
        ("base=./nowhere", ["field base", "there is no folder"]),
        ("options.lc.max_step=3", ["did you mean 'max_steps'"]),
        ("test=many", ["field test", "'many'"]),
    ],
)
def test_a_wrong_change_is_refused(
    change: str, words: list[str], recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onepass(capsys, "bench", recipe, "--set", change, "--out", recipe.parent / "runs").refused(
        *words
    )
    assert not (recipe.parent / "runs").exists()


def test_a_changed_recipe_is_what_the_folder_keeps(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = recipe.parent / "runs"
    changes = ("--set", "methods=[zero-shot]", "--set", "test=3", "--set", "device=cpu")
    bench(capsys, recipe, out, *changes).succeeded()
    kept = parse_recipe((out / "recipe.yaml").read_text(), out / "recipe.yaml")
    assert (kept.methods, kept.test) == (["zero-shot"], 3)
    (run,) = out.glob("*/*/*/run.json")
    assert load_run(run).splits["test"].count == 3
    assert int(load_run(run).environment["peak_memory_mb"]) > 100


def test_a_changed_method_is_told_and_done_again_with_redo(
    recipe: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, few = recipe.parent / "runs", ("--set", "methods=[zero-shot]", "--set", "test=3")
    bench(capsys, recipe, out, *few).succeeded()
    monkeypatch.setitem(vars(METHODS.get("zero-shot")), "code", "edited")
    for more in (("--plan",), ()):
        told = bench(capsys, recipe, out, *few, *more).succeeded().err
        assert "the code of their methods has changed" in told
        assert "--redo zero-shot" in told
    bench(capsys, recipe, out, *few, "--redo", "one-shot").refused("'one-shot'", "zero-shot")
    redone = bench(capsys, recipe, out, *few, "--redo", "zero*").succeeded().err
    assert ", 0 of them done already" in redone
    assert "has changed" not in bench(capsys, recipe, out, *few).succeeded().err


def bench(capsys: pytest.CaptureFixture[str], recipe: Path, out: Path, *more: object) -> Done:
    return onepass(capsys, "bench", recipe, "--out", out, "--workers", 0, *more)


# ---------------------------------------------------------------- adapters on the way


def test_missing_adapters_are_trained_once_and_used(
    untrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = untrained.parent / "runs"
    alone = bench(capsys, untrained, out, "--only", "zero-shot").succeeded()
    assert "training adapters" not in alone.err  # of which it needs none
    first = bench(capsys, untrained, out, "--only", "linear").succeeded()
    assert "training adapters first, for summarize, translate:es" in first.err
    assert "adapter translate:es: 2 steps" in first.err
    made = out / "adapters" / "translate-es" / "adapter_model.safetensors"
    before = made.stat().st_mtime_ns
    assert load_adapter(made.parent).card["task"]["name"] == "translate:es"
    again = bench(capsys, untrained, out).succeeded()
    assert "training adapters" not in again.err
    assert "1 of them done already" in again.err
    assert made.stat().st_mtime_ns == before


def test_with_activated_adapters_all_cells_share_one_reading(
    untrained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = yaml.safe_load(untrained.read_text())
    fields["train"]["activated"] = True
    methods = ["zero-shot", "linear", "multi-step", "lc", "lc++", "joint-expert"]
    untrained.write_text(yaml.safe_dump({**fields, "methods": methods}))
    out = untrained.parent / "runs"
    assert load_recipe(untrained).task(TASK).activate == "["  # for methods without adapters, too
    bench(capsys, untrained, out, "--only", "linear").succeeded()
    assert load_adapter(out / "adapters" / "summarize").invocation
    read: list[tuple[int, ...]] = []
    run = Readings._run

    def noted(self: Readings, rows: Any, low: Any) -> Any:
        read.extend(map(tuple, rows))
        return run(self, rows, low)

    monkeypatch.setattr(Readings, "_run", noted)
    bench(capsys, untrained, out).succeeded()
    assert {path.parts[-4] for path in out.glob("*/*/*/run.json")} == set(methods)
    assert len(read) >= 8 + 4  # for training and validation; those of the test were read before
    assert len(set(read)) == len(read)


def test_a_recipe_of_activated_adapters_takes_no_ordinary_ones(
    untrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those trained before, or the embedded ones, would be compared under a wrong name."""
    out, only = untrained.parent / "runs", ("--only", "linear")
    bench(capsys, untrained, out, *only).succeeded()
    activated = (*only, "--set", "train.activated=true")
    bench(capsys, untrained, out, *activated).refused("is an ordinary one")
    other = untrained.parent / "other"
    bench(capsys, untrained, other, *activated).succeeded()
    bench(capsys, untrained, other, *only).refused("is an activated one")
    recipe = load_recipe(RECIPES / "one-reading.yaml")
    assert missing(with_places(recipe, out / "new")) == [
        "summarize",
        "translate:es",
        "tone:professional",
    ]


def test_a_training_that_was_stopped_goes_on_to_the_same_adapters(
    untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = untrained.parent / "whole", untrained.parent / "cut"
    recipe = load_recipe(untrained)
    train_missing(with_places(recipe, whole), whole, progress=False)

    step, steps = fit._Training.step, []

    def interrupted(self: Any) -> float:
        steps.append(1)
        if len(steps) == 4:  # in the second adapter
            raise KeyboardInterrupt
        return float(step(self))

    placed = with_places(recipe, cut)
    with monkeypatch.context() as patched:
        patched.setattr(fit._Training, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_missing(placed, cut, progress=False)
    assert missing(placed) == ["translate:es"]
    train_missing(placed, cut, progress=False)
    for weights in whole.glob("adapters/*/*.safetensors"):
        assert (cut / weights.relative_to(whole)).read_bytes() == weights.read_bytes()


def test_adapters_may_be_a_folder_of_them(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    text = yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "adapters": "adapters"})
    whole = recipe_from(text, recipe)
    for part in TASK.split("+"):
        assert whole.adapter_folder(part) == loaded.adapter_folder(part)
    assert whole.adapter_folder("tone:casual") is None


def test_no_corpus_for_an_adapter_is_told(untrained: Path) -> None:
    fields = yaml.safe_load(untrained.read_text())
    fields["train"] = {**TRAIN, "corpus": {"summarize": "data"}}
    recipe = recipe_from(yaml.safe_dump(fields), untrained)
    with pytest.raises(OnepassError, match=r"train\.corpus: there is none for translate:es"):
        train_missing(
            with_places(recipe, untrained.parent / "x"), untrained.parent / "x", progress=False
        )  # fmt: skip


# ---------------------------------------------------------------- plans


def test_a_plan_counts_what_is_left_and_runs_nothing(
    untrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = untrained.parent / "runs"
    done = bench(capsys, untrained, out, "--plan").succeeded()
    assert not out.exists()
    lines = [line.split("\t") for line in done.out.splitlines()]
    assert [line[0] for line in lines] == [
        "method", "adapter summarize", "adapter translate:es", "lc", "zero-shot", "linear", "all",
    ]  # fmt: skip
    assert lines[-1][1:4] == ["3", "3", "32"]  # 2 adapters and lc, each of 2 or 4 steps of 4
    for word in ("3 cells, 0 of them done", "estimate", "GFLOP/s", "matrix product"):
        assert word in done.err


def test_a_plan_is_reckoned_with_the_rate_that_was_given(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    plan = make_plan(loaded, recipe.parent / "runs")
    slow, fast = (estimate(plan, loaded, recipe.parent / "runs", rate=rate) for rate in (1e9, 4e9))
    for one, other in zip(slow.rows, fast.rows, strict=True):
        assert slow.seconds(one) == pytest.approx(4 * fast.seconds(other))
        assert slow.seconds(one) == one.operations(slow.parameters) / 1e9
    by_name = {row.name: row for row in slow.rows}
    assert by_name["lc"].trained > 0 == by_name["linear"].trained
    assert by_name["lc"].read == by_name["linear"].read


def test_a_plan_learns_from_the_runs_that_are_done(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = recipe.parent / "runs"
    bench(capsys, recipe, out, "--only", "linear").succeeded()
    loaded = load_recipe(recipe)
    (path,) = out.glob("linear/*/*/run.json")
    told = json.loads(path.read_text())
    rates = []
    for seconds in (2.0, 4.0):
        told["seconds"] = {"build": 0.0, "generate": seconds}
        path.write_text(json.dumps(told))
        found = estimate(make_plan(loaded, out), loaded, out)
        assert "the 1 finished runs" in found.basis
        rates.append(found.rate)
    assert rates[0] == pytest.approx(2 * rates[1])
    done = bench(capsys, recipe, out, "--plan").succeeded()
    assert "linear" not in done.out
    assert "3 cells, 1 of them done" in done.err


def test_what_is_trained_on_and_tested_on_is_told(
    untrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, few = untrained.parent / "runs", ("--only", "linear", "lc")
    assert "trained on" not in bench(capsys, untrained, runs, "--plan").succeeded().err
    test = (untrained.parent / "data" / "test.jsonl").read_text().splitlines()

    def told(train: list[str]) -> str:
        (untrained.parent / "data" / "train.jsonl").write_text("\n".join(train))
        corpus_examples.cache_clear()
        return overlap(with_places(load_recipe(untrained), runs), ("linear", "lc"))

    train = (untrained.parent / "data" / "train.jsonl").read_text().splitlines()
    assert told(train) == ""
    rows = [{**json.loads(line), "id": f"again-{n}"} for n, line in enumerate(test[:4])]
    mixed = train[4:] + [json.dumps(row) for row in rows]
    found = told(mixed)
    for word in ("Tested on what is trained on: 4 of the 6 inputs", TASK, "adapter summarize"):
        assert word in found
    # The first eight examples, those of lc, have none of them.
    assert f"the training examples of {TASK}" not in found
    assert f"4 of the 6 inputs of {TASK}, test, are in the training examples of {TASK}" in told(
        mixed[::-1]
    )
    done = bench(capsys, untrained, runs, "--plan", *few).succeeded()
    assert "Tested on what is trained on: 4 of the 6" in done.err
    corpus_examples.cache_clear()


def test_a_recipe_without_its_corpus_is_refused_before_anything_is_trained(
    untrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(untrained.parent / "data")
    bench(capsys, untrained, untrained.parent / "runs").refused("data")
    assert not (untrained.parent / "runs" / "adapters").exists()


def test_the_steps_of_multi_step_may_be_given_the_text_alone(
    recipe: Path, base: Base, make_adapter: Any
) -> None:
    adapters = {part: make_adapter(part) for part in TASK.split("+")}
    setting = Setting(base, parse_task(TASK), adapters)
    build = METHODS.get("multi-step").build
    assert [pass_.task for pass_ in build(setting).passes] == list(setting.task.parts)
    empty = build(replace(setting, options={"prompt_style": "empty"}))
    assert [pass_.task.prompt for pass_ in empty.passes] == [BARE, BARE]
    alone = Composition(base.shape, parse_task("summarize"), (empty.passes[0],), "x")
    ours = run(base, alone, ["Ana: Hi."], 4).texts
    with folded(base, empty.passes[0]):
        assert generate(base, ["Ana: Hi."], 4).texts == ours
    with pytest.raises(OnepassError, match="did you mean 'empty'"):
        build(replace(setting, options={"prompt_style": "emty"}))
