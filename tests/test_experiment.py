"""The command lines of the paper's README, word for word, and what they leave behind."""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import onepass as op
from cli_kit import Done, listing, onepass, rows_of, write_rows
from onepass.adapters.adapter import load_adapter
from onepass.adapters.composition import load_composition
from onepass.api.data_sets import corpus_of, data_set, data_sets
from onepass.api.experiment import STRATEGIES
from onepass.cli import experiment as command
from onepass.comparison.recipe import load_recipe
from onepass.core.errors import OnepassError
from onepass.model.assets import embedded_adapter
from onepass.model.generate import run
from onepass.tasks.corpus import load_corpus

README = """
python run_experiment.py --experiment_name dialogsum_lora_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --dataset dialogsum --stored_model_name dialogsum_lora_slm_v1 --do_train --do_valid --do_predict
python run_experiment.py --experiment_name sum_tr_es_zero_shot_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum --stored_model_name dialogsum_lora_slm_v1 --zero_shot --secondary_task translation --do_valid --do_predict
python run_experiment.py --experiment_name sum_tr_es_sum_lora_only_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum --stored_model_name dialogsum_lora_slm_v1 --secondary_task translation --do_valid --do_predict
python run_experiment.py --experiment_name sum_tr_es_linear_merge_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum --lora_merge_strategy peft_linear --lora_merge_modules dialogsum_lora_slm_v1 tedtalks_es_lora_slm_v1 --stored_model_name dialogsum_lora_slm_v1 --secondary_task translation --do_valid --do_predict
python run_experiment.py --experiment_name sum_tr_es_multi_step_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum --stored_model_name dialogsum_lora_slm_v1 --secondary_stored_model_name tedtalks_es_lora_slm_v1 --secondary_task translation --do_valid --do_predict --multi_step_prompts --prompt_style empty
python run_experiment.py --experiment_name sum_tr_es_joint_expert_lora_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --tgt_lang es --secondary_task_dataset dialogsum_es --dataset dialogsum --stored_model_name sum_tr_es_joint_expert_lora_slm_v1 --secondary_task translation --multi_task_train_targets --do_train --do_valid --do_predict
python run_experiment.py --experiment_name sum_tr_es_learnable_calibration_pp_merge_slm_v1 --model_name_or_path stabilityai/stablelm-2-1_6b-chat --tgt_lang es --for_each_component --lora_merge_strategy learnable_calibration_pp --merge_datasets dialogsum_es --secondary_task_dataset dialogsum_es --lora_merge_modules dialogsum_lora_slm_v1 tedtalks_es_lora_slm_v1 --dataset dialogsum --stored_model_name dialogsum_lora_slm_v1 --secondary_task translation --do_valid --do_predict --num_examples_merge 10000
python llm_judge_eval.py --experiment_name sum_tr_es_learnable_calibration_pp_merge_slm_v1 --batch_size 2 --stage test
"""  # noqa: E501
NAMES = ("train", "zero-shot", "main", "linear", "multi-step", "joint", "lc++", "judge")
LINES = dict(zip(NAMES, README.strip().splitlines(), strict=True))
"""The README's command lines, without CUDA_VISIBLE_DEVICES=0."""
COUNT = 3
SHORT = ("device=cpu", f"test={COUNT}", "validation=2", "max_new_tokens=8")
FEW = {"max_steps": 2, "batch_size": 4}
MAIN, AUXILIARY = "dialogsum_lora_slm_v1", "tedtalks_es_lora_slm_v1"
PAIR = "summarize+translate:es"


def put(folder: Path, task: str, row: Callable[[op.Task, Any], dict[str, Any]]) -> None:
    """Rows of smalltown in a layout of another corpus."""
    folder.mkdir(parents=True)
    asked = op.parse_task(task)
    for split, count in (("train", 12), ("validation", 4), ("test", 4)):
        examples = load_corpus("smalltown").examples(asked, split, count)
        write_rows(folder / f"{split}.jsonl", [row(asked, example) for example in examples])


def write_data(data: Path) -> None:
    put(
        data / "dialogsum",
        "summarize",
        lambda _, e: {"fname": e.id, "dialogue": e.input, "summary": e.target},
    )
    put(data / "dialogsum_es", PAIR, lambda _, e: {"input": e.input, "target": e.target})
    put(
        data / "tedtalks",
        "translate:es",
        lambda _, e: {"talk_name": e.id, "en": e.input, "es": e.target},
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with data, and the embedded adapters as stored models."""
    folder = tmp_path_factory.mktemp("paper")
    write_data(folder / "data")
    for name, task in ((MAIN, "summarize"), (AUXILIARY, "translate:es")):
        shutil.copytree(embedded_adapter(task), folder / "stored_models" / name)
    return folder


def words(line: str) -> list[str]:
    """A line of the README as arguments of onepass: `onepass experiment` for `python`."""
    _, *rest = shlex.split(line)
    return ["experiment", *(w.replace("stabilityai/stablelm-2-1_6b-chat", "tiny") for w in rest)]


def do(
    capsys: pytest.CaptureFixture[str], root: Path, line: str, *more: str, changes: Any = ()
) -> Done:
    """A line of the README on the tiny base, its budgets cut by --set."""
    return onepass(capsys, *words(line), "--root", root, *more, "--set", *SHORT, *changes)


def left(root: Path, name: str, metric: str = "rougeL") -> dict[str, list[str]]:
    """The predictions of an experiment by split, once all that it leaves is found to agree."""
    predictions = {}
    results = json.loads((root / "output" / name / "results.json").read_text(encoding="utf-8"))
    for row in results:
        split = row["split"]
        path = root / "predictions" / name / f"{split}.jsonl"
        rows = rows_of(path.read_text(encoding="utf-8"))
        (stored,) = (root / "output" / name).glob("*/*/*/predictions.jsonl")
        assert [(r["id"], r["prediction"]) for r in rows] == [
            (r["id"], r["prediction"])
            for r in rows_of(stored.read_text(encoding="utf-8"))
            if r["split"] == split
        ]
        assert len(rows) == row["count"] == COUNT
        assert 0 <= row[metric] <= 1
        predictions[split] = [r["prediction"] for r in rows]
    log = (root / "logs" / f"{name}.log").read_text(encoding="utf-8")
    assert f"onepass experiment --experiment_name {name}" in log
    assert log.count("result: ") >= len(results)
    return predictions


def outputs(root: Path, base: Any, stored: str, split: str = "test") -> list[str]:
    """What a composition in stored_models makes of the data."""
    composition = load_composition(root / "stored_models" / stored)
    found = load_corpus(str(root / "data" / "dialogsum_es"))
    texts = [e.input for e in found.examples(composition.task, split, COUNT)]
    return run(base, composition, texts, 8).texts


def test_train_a_lora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path / "data")
    changes = ["train.examples=8", "train.validation=2"]
    changes += [f"train.options.{option}={value}" for option, value in FEW.items()]
    do(capsys, tmp_path, LINES["train"], changes=changes).succeeded()
    assert set(left(tmp_path, MAIN)) == {"test", "validation"}
    adapter = load_adapter(tmp_path / "stored_models" / MAIN)
    assert adapter.card["task"]["name"] == "summarize"
    assert {lora.rank for lora in adapter.modules.values()} == {32}
    log = (tmp_path / "logs" / f"{MAIN}.log").read_text(encoding="utf-8")
    assert "adapter summarize: 2 steps" in log
    kept = listing(tmp_path / "output") | listing(tmp_path / "stored_models")
    again = do(capsys, tmp_path, LINES["train"], changes=changes).succeeded()
    assert "is there already and is not trained again" in again.err
    assert "1 cells, 1 of them done already" in again.err
    assert listing(tmp_path / "output") | listing(tmp_path / "stored_models") == kept


def test_a_lora_alone_can_be_trained_with_nothing_tested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path / "data")
    line = (
        "python run_experiment.py --experiment_name ted --model_name_or_path tiny --dataset "
        f"tedtalks_es --stored_model_name {AUXILIARY} --do_train --gradient_accumulation_steps 4"
    )
    changes = ["train.examples=8", "train.validation=2", "train.options.batch_size=1"]
    do(capsys, tmp_path, line, changes=changes).succeeded()
    card = load_adapter(tmp_path / "stored_models" / AUXILIARY).card
    assert (card["task"]["name"], card["steps"]) == ("translate:es", 2)
    assert not (tmp_path / "predictions").exists()


def test_zero_shot(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    do(capsys, root, LINES["zero-shot"]).succeeded()
    name = "sum_tr_es_zero_shot_slm_v1"
    assert set(left(root, name)) == {"test", "validation"}
    assert not (root / "stored_models" / name).exists()


def test_main_task_lora(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    do(capsys, root, LINES["main"]).succeeded()
    found = left(root, "sum_tr_es_sum_lora_only_slm_v1")["test"]
    assert all(found)
    assert (root / "output/sum_tr_es_sum_lora_only_slm_v1/main-adapter").is_dir()


def test_linear_merge(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    do(capsys, root, LINES["linear"]).succeeded()
    name = "sum_tr_es_linear_merge_slm_v1"
    found = left(root, name)
    base = op.load_base("tiny", device="cpu")
    assert outputs(root, base, name) == found["test"]
    assert outputs(root, base, name, "validation") == found["validation"]


def test_multi_step(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    do(capsys, root, LINES["multi-step"]).succeeded()
    name = "sum_tr_es_multi_step_slm_v1"
    left(root, name)
    recipe = load_recipe(root / "output" / name / "recipe.yaml")
    assert recipe.options == {"multi-step": {"prompt_style": "empty"}}


def test_joint_expert(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [f"options.joint-expert.{option}={value}" for option, value in FEW.items()]
    changes = ["examples=[8]", *few, "options.joint-expert.learning_rate=2e-3"]
    name = "sum_tr_es_joint_expert_lora_slm_v1"
    do(capsys, root, LINES["joint"], changes=changes).succeeded()
    found = left(root, name)
    stored = load_adapter(root / "stored_models" / name)
    assert {lora.rank for lora in stored.modules.values()} == {32}
    # Stored, it is tested like any other LoRA, and gives the same.
    for flag in ("--multi_task_train_targets ", "--do_train "):
        assert flag in LINES["joint"]
    line = LINES["joint"].replace("--multi_task_train_targets --do_train ", "")
    line = line.replace(f"--experiment_name {name}", "--experiment_name tested")
    do(capsys, root, line).succeeded()
    assert left(root, "tested") == found
    # Trained otherwise, it would replace what is stored.
    done = do(capsys, root, LINES["joint"], changes=[*changes, "examples=[12]"])
    done.refused(name, "exists; remove it to train it anew")
    do(capsys, root, LINES["joint"], changes=changes).succeeded()


def test_learnable_calibration_and_the_judge(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [f"options.lc++.{option}={value}" for option, value in FEW.items()]
    changes = ["examples=[8]", *few]
    name = "sum_tr_es_learnable_calibration_pp_merge_slm_v1"
    do(capsys, root, LINES["lc++"], changes=changes).succeeded()
    found = left(root, name)
    assert outputs(root, op.load_base("tiny", device="cpu"), name) == found["test"]
    (pass_,) = load_composition(root / "stored_models" / name).passes
    assert pass_.calibration is not None
    assert [each.weight for each in pass_.adapters] == [0.5, 0.5]
    # Lost, it comes back; what is done is not done again.
    kept = listing(root / "stored_models" / name)
    shutil.rmtree(root / "stored_models" / name)
    again = do(capsys, root, LINES["lc++"], changes=changes).succeeded()
    assert "1 cells, 1 of them done already" in again.err
    assert listing(root / "stored_models" / name) == kept

    judging = [*words(LINES["judge"]), "--root", root]
    done = onepass(capsys, *judging, "--judge", "tiny").succeeded()
    assert f"{COUNT} outputs" in done.err
    (judged,) = (root / "output" / name).glob("*/*/*/judge-tiny.jsonl")
    # The whole README's line names no judge: it is the paper's, or one that --stage alone asks for.
    monkeypatch.setattr(command, "THE_JUDGE", "tiny")
    before = judged.read_text(encoding="utf-8")
    for line in (judging, [word for word in judging if word != "llm_judge_eval.py"]):
        done = onepass(capsys, *line).succeeded()
        assert "0 to ask" in done.err
        assert "judge: tiny" in done.err
        assert judged.read_text(encoding="utf-8") == before


@pytest.mark.parametrize("name", [name for name in LINES if name != "judge"])
def test_the_shown_recipe_is_what_is_run(
    name: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = do(capsys, root, LINES[name], "--show-recipe").succeeded()
    assert shown.err == ""
    path = tmp_path / "shown.yaml"
    path.write_text(shown.out, encoding="utf-8")
    assert load_recipe(path).splits == ["test", "validation"]
    if name != "main":
        return
    do(capsys, root, LINES[name]).succeeded()
    onepass(capsys, "bench", path, "--out", tmp_path / "runs", "--workers", "0").succeeded()
    (made,) = (tmp_path / "runs").glob("*/*/*/predictions.jsonl")
    (ours,) = (root / "output" / load_recipe(path).name).glob("*/*/*/predictions.jsonl")
    assert made.read_text(encoding="utf-8") == ours.read_text(encoding="utf-8")


PAGE = Path(__file__).parents[1] / "docs" / "paper.md"


def test_the_page_has_lines_of_the_readme() -> None:
    lines = [line.strip() for line in PAGE.read_text(encoding="utf-8").splitlines()]
    shown = [line for line in lines if line.startswith("onepass experiment ")]
    readme = [line.replace("python", "onepass experiment", 1) for line in LINES.values()]
    assert shown[:2] == readme[:2]
    assert shown[2].replace("zero_shot", "learnable_calibration_pp_merge") == readme[-1]


RECIPES = Path(__file__).parents[1] / "recipes" / "paper"


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("train", "adapters"), ("zero-shot", "zero-shot"), ("main", "main-task"),
        ("linear", "linear"), ("multi-step", "multi-step"), ("joint", "joint-expert"),
        ("lc++", "calibration"),
    ],
)  # fmt: skip
def test_the_settings_are_those_of_the_papers_recipes(
    name: str, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*words(LINES[name]), "--root", tmp_path, "--show-recipe"]
    ours = yaml.safe_load(onepass(capsys, *args).succeeded().out)
    theirs = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8"))
    (method,) = ours["methods"]
    assert method in theirs["methods"]
    for field in ("validation", "test", "max_new_tokens"):
        assert ours[field] == theirs[field]
    assert ours.get("examples", [10000]) == [10000]
    options = theirs.get("options", {}).get(method, {})
    assert options.items() <= ours.get("options", {}).get(method, {}).items()
    if name == "train":
        assert ours["train"]["rank"] == theirs["train"]["rank"]
        assert ours["train"]["examples"] == theirs["train"]["examples"]
        assert ours["train"]["options"]["epochs"] == theirs["train"]["options"]["epochs"]


def test_what_is_missing_is_told_and_the_recipe_shown_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = do(capsys, tmp_path, LINES["linear"], "--show-recipe").succeeded()
    assert yaml.safe_load(shown.out)["methods"] == ["peft-linear"]
    missing = shown.err.splitlines()
    assert len(missing) == 3
    data, main, auxiliary = missing
    assert f"{tmp_path / 'data/dialogsum_es'} should hold train.jsonl" in data
    assert f"`onepass data prepare --corpus dialogsum --tasks {PAIR} --out" in data
    assert f"no stored model {tmp_path / 'stored_models' / MAIN}; train it first" in main
    assert AUXILIARY in auxiliary
    do(capsys, tmp_path, LINES["linear"]).refused("no data for dialogsum_es")
    assert not any(tmp_path.iterdir())


RUN = f"python --experiment_name x --model_name_or_path tiny --stored_model_name {MAIN}"
BOTH = f"{RUN} --dataset dialogsum --secondary_task translation"
PAIRED = f"{BOTH} --secondary_task_dataset dialogsum_es"
MODULES = f"--lora_merge_modules {MAIN} {AUXILIARY}"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{RUN} --dataset dialogsums --do_predict", ["unknown data set", "'dialogsum'"]),
        (f"{RUN} --do_predict", ["--dataset is missing"]),
        (f"{RUN} --dataset dialogsum", ["nothing to do", "--do_predict"]),
        (f"{RUN} --dataset dialogsum --tgt_lang fr --do_predict", ["--tgt_lang fr", "summarize"]),
        (f"{RUN} --dataset tone_witty --do_train", ["no data for tone_witty", "text and witty"]),
        (f"{PAIRED} --tgt_lang fr --do_predict", ["--tgt_lang fr", "summarize+translate:es"]),
        (f"{BOTH} --do_predict", ["--secondary_task means nothing without", "_dataset"]),
        (
            f"{BOTH} --secondary_task_dataset tedtalks_es --do_predict",
            ["tedtalks_es is of translate:es", "as dialogsum_es for dialogsum"],
        ),
        (
            f"{BOTH} --secondary_task_dataset dialogsum_witty --do_predict",
            ["dialogsum_witty is of summarize+tone:witty", "translation"],
        ),
        (
            f"{RUN} --dataset dialogsum --secondary_task translate --do_predict "
            "--secondary_task_dataset dialogsum_es",
            ["unknown --secondary_task 'translate'", "translation"],
        ),
        (f"{PAIRED} --do_train", ["--do_train means nothing with --secondary_task"]),
        (f"{PAIRED} --zero_shot --do_train", ["--do_train means nothing with --zero_shot"]),
        (f"{PAIRED} --multi_task_train_targets --do_predict", ["without --do_train"]),
        (
            f"{PAIRED} --zero_shot --multi_step_prompts --do_predict",
            ["--zero_shot and --multi_step_prompts are different methods"],
        ),
        (f"{PAIRED} --multi_step_prompts --do_predict", ["--secondary_stored_model_name"]),
        (
            f"{PAIRED} --multi_step_prompts --prompt_style emtpy --do_predict",
            ["unknown --prompt_style 'emtpy'", "'empty'"],
        ),
        (f"{PAIRED} --prompt_style empty --do_predict", ["without --multi_step_prompts"]),
        (f"{PAIRED} {MODULES} --do_predict", ["without --lora_merge_strategy"]),
        (
            f"{PAIRED} --lora_merge_strategy peft_liner {MODULES} --do_predict",
            ["unknown --lora_merge_strategy", "'peft_linear'"],
        ),
        (
            f"{PAIRED} --lora_merge_strategy ties --lora_merge_modules {MAIN} --do_predict",
            [f"--lora_merge_modules is {MAIN}; give two"],
        ),
        (
            f"{PAIRED} --lora_merge_strategy ties --lora_merge_modules a b --do_predict",
            ["--lora_merge_modules is a b", MAIN],
        ),
        (
            f"{PAIRED} --lora_merge_strategy ties {MODULES} --num_examples_merge 9 --do_predict",
            ["--num_examples_merge means nothing with ties"],
        ),
        (
            f"{PAIRED} --lora_merge_strategy lorahub {MODULES} --num_examples_merge 99 "
            "--do_predict",
            ["at most 50"],
        ),
        (
            f"{PAIRED} --lora_merge_strategy ties {MODULES} --for_each_component --do_predict",
            ["--for_each_component means nothing with ties"],
        ),
        (
            f"{PAIRED} --lora_merge_strategy learnable_calibration {MODULES} --merge_datasets "
            "dialogsum_fr --do_predict",
            ["--merge_datasets dialogsum_fr", "dialogsum_es"],
        ),
        (f"{PAIRED} --gradient_accumulation_steps 4 --do_predict", ["nothing is trained"]),
        (
            f"{PAIRED} --do_predict --batch_size 2",
            ["--batch_size is for the judge", "--stage asks for"],
        ),
        (f"{RUN} --dataset dialogsum --do_predict --root nowhere", ["no stored model"]),
        (f"{RUN} --dataset dialogsum --stored_model_name ../x --do_train", ["'../x'", "letters"]),
        (f"{RUN} --stage test", ["--model_name_or_path is not for the judge"]),
        ("python --experiment_name x --stage tset", ["unknown --stage 'tset'", "'test'"]),
        ("python --experiment_name x --stage test", ["run the experiment first"]),
        (f"python eval.py {RUN[7:]} --dataset dialogsum --do_train", ["'eval.py' is neither"]),
    ],
)
def test_flags_that_mean_nothing_are_refused(
    line: str, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    onepass(capsys, *words(line)).refused(*said)
    assert not any(tmp_path.iterdir())


def test_a_stored_model_is_not_replaced_by_a_composition(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = LINES["linear"].replace("sum_tr_es_linear_merge_slm_v1", MAIN)
    before = listing(root / "stored_models" / MAIN)
    do(capsys, root, line).refused(MAIN)
    assert listing(root / "stored_models" / MAIN) == before


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_makes_a_sound_recipe(
    strategy: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = LINES["linear"].replace("peft_linear", strategy)
    shown = do(capsys, root, line, "--show-recipe").succeeded()
    (path := tmp_path / "shown.yaml").write_text(shown.out, encoding="utf-8")
    assert load_recipe(path).methods == [STRATEGIES[strategy]]


def test_the_names_of_data_sets() -> None:
    tasks = {name: each.task for name, each in data_sets().items()}
    assert (
        tasks.items()
        >= {
            "dialogsum": "summarize",
            "dialogsum_es": "summarize+translate:es",
            "dialogsum_professional": "summarize+tone:professional",
            "tedtalks_fr": "translate:fr",
            "persona_chat": "reply",
            "synthetic_persona_chat_witty": "reply+tone:witty",
            "tone_casual": "tone:casual",
        }.items()
    )
    assert {"tedtalks", "tone", "tedtalks_witty", "tone_es"}.isdisjoint(tasks)
    with pytest.raises(OnepassError, match="unknown data set 'dialogsum_it'"):
        data_set("dialogsum_it")


def test_where_data_are(tmp_path: Path) -> None:
    def at(name: str) -> str:
        return corpus_of(data_set(name), tmp_path)[0]

    assert [at(name) for name in ("dialogsum", "persona_chat", "tedtalks_es")] == [
        "dialogsum", "persona-chat", "ted",
    ]  # fmt: skip
    row = {"input": "Hi.", "target": "Hola."}
    prepared = tmp_path / "train.jsonl"
    write_rows(prepared, [{**row, "task": PAIR}])
    assert at("dialogsum_es") == str(tmp_path)  # what `onepass data prepare --out data` left
    (tmp_path / "paper").mkdir()
    write_rows(tmp_path / "paper" / "train.jsonl", [{**row, "task": PAIR}])
    assert at("dialogsum_es") == str(tmp_path / "paper")
    write_rows(tmp_path / "dialogsum_es.jsonl", [row])
    assert at("dialogsum_es") == str(tmp_path / "dialogsum_es.jsonl")
    write_rows(tmp_path / "dialogsum.jsonl", [row])
    assert at("dialogsum") == str(tmp_path / "dialogsum.jsonl")
    write_rows(tmp_path / "dialogsum.jsonl", [{"dialogue": "A: Hi.", "summary": "A greets."}])
    assert at("dialogsum") == f"dialogsum:{tmp_path / 'dialogsum.jsonl'}"
    write_rows(tmp_path / "dialogsum_fr.jsonl", [{"dialogue": "A: Hi.", "summary_fr": "A salue."}])
    assert at("dialogsum_fr") == f"dialogsumx:{tmp_path / 'dialogsum_fr.jsonl'}"
    write_rows(tmp_path / "tones.jsonl", [{"text": "Hi.", "witty": "Ahoy."}])
    assert at("tone_witty") == f"tone:{tmp_path / 'tones.jsonl'}"


def test_a_composition_is_kept_if_the_recipe_says_so(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = do(capsys, root, LINES["linear"], "--show-recipe").succeeded()
    (path := tmp_path / "shown.yaml").write_text(shown.out, encoding="utf-8")
    bench = ["bench", path, "--out", tmp_path / "runs", "--workers", "0"]
    onepass(capsys, *bench, "--set", "keep=false").succeeded()
    assert not list((tmp_path / "runs").glob("*/*/*/composition"))
    done = onepass(capsys, *bench).succeeded()
    assert "1 cells, 0 of them done already" in done.err
    (kept,) = (tmp_path / "runs").glob("*/*/*/composition")
    assert load_composition(kept).method == "peft-linear"
    assert load_composition(kept).card["base_quantization"] == "none"
    assert "1 of them done already" in onepass(capsys, *bench, "--set", "keep=false").err
