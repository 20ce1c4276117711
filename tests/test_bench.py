"""The bench: each cell is done once, whatever happens, and means what it says."""

import importlib
import json
import multiprocessing
import os
import pickle
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench_kit import TASKS, small_recipe, write_recipe
from onepass.adapters.adapter import load_adapter
from onepass.adapters.composition import Composition
from onepass.adapters.history import HISTORY, read_history
from onepass.adapters.merging import linear, sparse
from onepass.cli.app import build_app
from onepass.comparison import job as job_module
from onepass.comparison import materials
from onepass.comparison.bench import make_plan, run_bench
from onepass.comparison.cells import Cell, jobs_of
from onepass.comparison.examples import read_example_rows
from onepass.comparison.job import do_job
from onepass.comparison.recipe import Recipe
from onepass.comparison.report import make_report, read_results, report_markdown
from onepass.comparison.runs import (
    FAILURES,
    PREDICTIONS,
    STATE,
    Run,
    load_run,
    load_runs,
    pack,
    unpack,
)
from onepass.comparison.workers import (
    Event,
    Failed,
    Finished,
    Progressed,
    Started,
    Trained,
    in_processes,
    in_this_process,
)
from onepass.core.errors import OnepassError
from onepass.methods import METHODS, Setting, calibration, merges, shared
from onepass.methods.setting import source_digest
from onepass.model.generate import Generated, run
from onepass.model.load import Base
from onepass.model.training import fit
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import load_corpus

Small = Callable[..., tuple[Recipe, str]]


@pytest.fixture
def small(tmp_path: Path, base_folder: Path, make_adapter: Any) -> Small:
    """`small(**changes)`: the small recipe with changed fields, and its text."""
    return lambda **changes: small_recipe(tmp_path / "in", base_folder, make_adapter, **changes)


def bench(made: tuple[Recipe, str], out: Path, backend: Any = in_this_process) -> list[Event]:
    recipe, text = made
    return list(run_bench(make_plan(recipe, out), recipe, text, out, backend))


def finished(events: list[Event]) -> set[Cell]:
    return {cell for e in events if isinstance(e, Finished) for cell in e.job.cells if e.cells}


def the_run(out: Path, method: str, task: str = TASKS[0], examples: int = 0) -> Run:
    return load_run(out / Cell(method, task, examples, 0).place / "run.json")


def outputs(out: Path) -> dict[str, str]:
    """Every predictions file below `out`, by its place."""
    found = sorted(out.glob("*/*/*/predictions.jsonl"))
    return {str(path.relative_to(out)): path.read_text(encoding="utf-8") for path in found}


def test_every_cell_is_done_once(small: Small, tmp_path: Path) -> None:
    made, out = small(), tmp_path / "out"
    events = bench(made, out)
    cells = [cell for job in jobs_of(made[0]) for cell in job.cells]
    assert finished(events) == set(cells)
    assert len(cells) == len(set(cells)) == 3 * len(TASKS)
    assert sorted(path.parent for path in out.glob("*/*/*/run.json")) == sorted(
        out / cell.place for cell in cells
    )
    assert not (out / STATE).exists()
    assert make_plan(made[0], out).jobs == []
    assert bench(made, out) == []


def test_a_run_is_what_the_method_gives(small: Small, tmp_path: Path, base: Base) -> None:
    (recipe, text), out = small(methods=["linear"]), tmp_path / "out"
    bench((recipe, text), out)
    task = parse_task(TASKS[0])
    examples = load_corpus(recipe.corpus_of(task.name)).examples(task, "test", 6)
    folders = {part.name: recipe.adapter_folder(part.name) for part in task.parts}
    adapters = {part: load_adapter(folder) for part, folder in folders.items() if folder}
    composition = METHODS.get("linear").build(Setting(base, task, adapters))
    texts = run(base, composition, [example.input for example in examples], 6).texts
    stored = (out / "linear" / "summarize+translate-es" / "0-0" / "predictions.jsonl").read_text(
        encoding="utf-8"
    )
    assert [json.loads(line) for line in stored.splitlines()] == [
        {"split": "test", "id": example.id, "prediction": text}
        for example, text in zip(examples, texts, strict=True)
    ]
    found = the_run(out, "linear")
    result = found.splits["test"]
    assert result.count == 6
    assert result.means["rougeL"] == pytest.approx(
        sum(value or 0 for value in result.values("rougeL")) / 6, abs=1e-3
    )
    assert found.cost.extra_parameters == 0
    assert found.environment["torch"]
    assert str(tmp_path) not in (out / "linear/summarize+translate-es/0-0/run.json").read_text()


def test_a_run_that_is_kept_tells_what_it_was_tested_on_without_the_corpus(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, out = small(methods=["linear"], tasks=TASKS[:1], keep=True), tmp_path / "out"
    bench(given, out)
    task = parse_task(TASKS[0])
    examples = load_corpus(given[0].corpus_of(task.name)).examples(task, "test", 6)
    for path in out.rglob(PREDICTIONS):
        path.unlink()
    monkeypatch.setattr("onepass.comparison.examples.split_examples", None)
    rows = read_example_rows(out, read_results(out))
    assert [(row.id, row.input, row.targets) for row in rows] == [
        (example.id, example.input, example.targets) for example in examples
    ]
    assert all(row.answers["linear"].reasons == "" for row in rows)


def test_texts_of_ones_own_are_shown_side_by_side(small: Small, tmp_path: Path, base: Base) -> None:
    text = "Ana: Are you | coming?\nBen: At *seven*."
    (recipe, written), out = (
        small(methods=["zero-shot", "linear"], tasks=TASKS[:1], show=[text]),
        tmp_path / "out",
    )
    bench((recipe, written), out)
    (table,) = make_report(out).side_by_side
    assert [row[0] for row in table.rows] == ["(the text)", "zero-shot", "linear"]
    task = recipe.task(TASKS[0])
    setting = Setting(base, task, materials.adapters_for(recipe, TASKS[0]))
    for name, shown in table.rows[1:]:
        composition = METHODS.get(str(name)).build(setting)
        (output,) = run(base, composition, [text], recipe.max_new_tokens).texts
        assert " ".join(str(shown).split()) == " ".join(output.replace("\n", " / ").split())
    # Another text is another recipe: what was answered for this one does not stand for it.
    assert make_plan(recipe.model_copy(update={"show": ["Hello."]}), out).done == 0


def test_the_peak_of_one_method_is_not_that_of_another(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system forgets no peak")

    def hungry(base: Base, composition: Composition, *args: Any) -> Generated:
        held = b"x" * (200 * 10**6 * (composition.method == "zero-shot"))
        done = run(base, composition, *args)
        del held
        return done

    monkeypatch.setattr(job_module, "run", hungry)
    bench(small(methods=["zero-shot", "linear"], tasks=TASKS[:1]), tmp_path / "out")
    peaks = {
        method: int(the_run(tmp_path / "out", method).environment["peak_memory_mb"])
        for method in ("zero-shot", "linear")
    }
    assert peaks["zero-shot"] - peaks["linear"] > 150


def test_only_what_changed_is_done_again(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bench(small(), out)
    assert make_plan(small(batch_size=2, tasks=TASKS[:1])[0], out).jobs == []
    options = {"lc": {"max_steps": 2, "batch_size": 4, "eval_every": 1}}
    assert {job.method for job in make_plan(small(options=options)[0], out).jobs} == {"lc"}
    assert len(make_plan(small(max_new_tokens=5)[0], out).jobs) == 3 * len(TASKS)


def test_a_changed_method_is_told_and_done_again_when_asked(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out = small(), tmp_path / "out"
    recipe, text = made
    bench(made, out)
    before = outputs(out)
    assert make_plan(recipe, out).changed == make_report(out).changed == ""
    assert make_plan(recipe, out, redo={"lc"}).jobs == []
    monkeypatch.setitem(vars(METHODS.get("lc")), "code", "edited")
    plan = make_plan(recipe, out)
    assert (plan.jobs, plan.done) == ([], 6)
    assert "Since 2 of these cells were run" in plan.changed
    assert "--redo lc`" in plan.changed
    assert plan.changed in report_markdown(make_report(out))
    events = list(
        run_bench(make_plan(recipe, out, redo={"lc"}), recipe, text, out, in_this_process)
    )
    assert {(cell.method, cell.task) for cell in finished(events)} == {("lc", t) for t in TASKS}
    assert outputs(out) == before
    assert make_plan(recipe, out).changed == make_report(out).changed == ""
    assert make_plan(recipe, out, redo={"lc"}).jobs == []  # so that it can be stopped, and goes on


def test_a_run_that_does_not_tell_its_code_is_done_until_asked_for(
    small: Small, tmp_path: Path
) -> None:
    (recipe, text), out = small(methods=["linear"], tasks=TASKS[:1]), tmp_path / "out"
    bench((recipe, text), out)
    (path,) = out.glob("*/*/*/run.json")
    told = json.loads(path.read_text())
    del told["environment"]["method_code"]
    path.write_text(json.dumps(told))
    plan = make_plan(recipe, out)
    assert (plan.jobs, plan.changed) == ([], "")
    assert len(make_plan(recipe, out, redo={"linear"}).jobs) == 1


def test_the_code_of_a_method_is_its_own_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for body in ("x = 1\n", "x = 22\n", "x = 1\n"):
        (tmp_path / "a_method.py").write_text(body)
        importlib.import_module("a_method")
        digests.append(source_digest(["a_method"]))
    assert digests[0] == digests[2] != digests[1]
    assert source_digest(["no_such_module"]) == ""
    assert METHODS.get("lc").code == source_digest([calibration.__name__]) != ""
    assert METHODS.get("shared-lc").code == source_digest([shared.__name__, calibration.__name__])
    # That of a merge is its own file, not that of the decorator.
    assert METHODS.get("slerp").code == source_digest([merges.__name__, linear.__name__])
    assert METHODS.get("ties").code == source_digest([merges.__name__, sparse.__name__])


def test_runs_outlive_a_move(
    small: Small, tmp_path: Path, base_folder: Path, make_adapter: Any
) -> None:
    bench(small(methods=["linear"]), tmp_path / "out")
    shutil.copytree(tmp_path / "in", tmp_path / "elsewhere")
    shutil.copytree(base_folder, tmp_path / "bases" / base_folder.name)
    moved, _ = small_recipe(
        tmp_path / "elsewhere",
        tmp_path / "bases" / base_folder.name,
        make_adapter,
        methods=["linear"],
    )
    assert make_plan(moved, tmp_path / "out").jobs == []


def test_a_failing_cell_does_not_stop_the_others(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe, text = small()
    assert isinstance(recipe.adapters, dict)
    lacking = dict(recipe.adapters)
    del lacking["tone:witty"]
    events = bench((recipe.model_copy(update={"adapters": lacking}), text), out)
    failed = [event for event in events if isinstance(event, Failed)]
    assert {(event.job.method, event.job.together) for event in failed} == {
        ("linear", (TASKS[1],)),
        ("lc", (TASKS[1],)),
    }
    assert "needs an adapter for 'tone:witty'" in failed[0].message
    assert len(list((out / FAILURES).iterdir())) == 2
    assert len(finished(events)) == 4
    bench((recipe, text), out)
    assert not (out / FAILURES).exists()
    assert len(load_runs(out)[1]) == 6


def test_a_killed_training_goes_on_where_it_was(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small(methods=["lc"], tasks=TASKS[:1])
    bench(made, tmp_path / "whole")
    steps: list[int] = []
    step = fit._Training.step

    def counted(self: Any) -> float:
        if len(steps) == 2:
            steps.append(-1)
            raise KeyboardInterrupt
        steps.append(self.history.steps)
        if len(steps) < 3:
            time.sleep(0.5)
        return step(self)

    monkeypatch.setattr(fit._Training, "step", counted)
    with pytest.raises(KeyboardInterrupt):
        bench(made, tmp_path / "killed")
    assert outputs(tmp_path / "killed") == {}
    bench(small(methods=["zero-shot"], tasks=TASKS[:1]), tmp_path / "killed")  # has no say in it
    bench(made, tmp_path / "killed")
    assert steps == [0, 1, -1, 2, 3]
    assert not (tmp_path / "killed" / STATE).exists()
    assert outputs(tmp_path / "whole").items() <= outputs(tmp_path / "killed").items()
    assert outputs(tmp_path / "whole") != {}
    killed, whole = (
        read_history(tmp_path / name / Cell("lc", TASKS[0], 8, 0).place / HISTORY)
        for name in ("killed", "whole")
    )
    assert killed is not None
    assert whole is not None
    assert killed.losses == whole.losses
    assert len(whole.losses) == 4
    # The seconds before the kill count too.
    assert the_run(tmp_path / "killed", "lc", examples=8).seconds["build"] > 1.0


def test_a_shared_method_trains_once_for_all(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"shared-lc": {"max_steps": 2, "batch_size": 4, "learning_rate": 0.5}}
    made, out = small(methods=["shared-lc"], options=options), tmp_path / "out"
    calibrations = []

    def watched(base: Base, composition: Any, *rest: Any) -> Any:
        calibrations.append((composition.task, composition.passes[0]))
        return run(base, composition, *rest)

    monkeypatch.setattr(job_module, "run", watched)
    events = bench(made, out)
    assert [e.cells for e in events if isinstance(e, Finished)] == [2]
    (one, first), (other, second) = calibrations
    assert [one.name, other.name] == TASKS
    assert first.calibration is second.calibration is not None
    assert [w.adapter.name for w in second.adapters] == ["reply", "tone:witty"]
    cost = the_run(out, "shared-lc", TASKS[1], 8).cost
    assert cost.shared_by == 2
    assert cost.extra_parameters == first.calibration.parameter_count


def test_a_job_that_another_process_is_at_is_left_to_it(small: Small, tmp_path: Path) -> None:
    recipe, _ = small(methods=["zero-shot"])
    job = jobs_of(recipe)[0]
    with job_module._locked(tmp_path / "out" / STATE / f"{job.slug}.lock") as ours:
        assert ours
        assert do_job(job, recipe, tmp_path / "out").cells == 0
    assert do_job(job, recipe, tmp_path / "out").cells == 1


def test_processes_do_the_same_and_can_be_stopped(small: Small, tmp_path: Path) -> None:
    short = {"max_steps": 4, "batch_size": 4, "eval_every": 1}
    recipe, _ = small(
        methods=["linear", "lc", "lc++"],
        tasks=TASKS[:1],
        options={"lc": short, "lc++": {**short, "max_steps": 1_000_000, "patience": None}},
    )
    here, there = tmp_path / "here", tmp_path / "there"
    done, endless = jobs_of(recipe, ["linear", "lc"]), jobs_of(recipe, ["lc++"])
    list(in_this_process(done, recipe, here))
    outputs_made, ended, steps = 0, 0, set()
    with closing(in_processes(2)([*done, *endless], recipe, there)) as events:
        for event in events:
            outputs_made += event.outputs if isinstance(event, Progressed) else 0
            ended += isinstance(event, Finished)
            if isinstance(event, Trained):
                steps.add((event.job.method, event.total))
            if ended == 2:
                break
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        deadline = time.monotonic() + 60
        while not list((there / STATE).glob("lc++*/*")) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert outputs_made == 2 * 6
    assert ("lc", 4) in steps
    assert outputs(there) == outputs(here) != {}
    assert the_run(there, "linear").environment["threads"] == "1"
    # Stopped in the midst of it, the third has left its state, and nobody works on.
    assert list((there / STATE).glob("lc++*/state.safetensors"))
    assert not any(worker.is_alive() for worker in workers)


def test_a_worker_that_dies_is_a_failed_job(small: Small, tmp_path: Path) -> None:
    recipe, _ = small(methods=["lc"], tasks=TASKS[:1])
    with closing(in_processes(1)(jobs_of(recipe), recipe, tmp_path / "out")) as events:
        assert isinstance(next(events), Started)
        (worker,) = multiprocessing.active_children()
        worker.kill()
        (event,) = events
    assert isinstance(event, Failed)
    assert "memory ran out" in event.message


def test_jobs_are_plain_data_the_biggest_first(small: Small) -> None:
    recipe, _ = small(methods=["linear", "lc", "shared-lc", "multi-step"], examples=[4, 8])
    jobs = jobs_of(recipe)
    assert pickle.loads(pickle.dumps((jobs, recipe))) == (jobs, recipe)
    assert [job.method for job in jobs[:2]] == ["shared-lc", "shared-lc"]
    assert jobs[0].examples == 8
    assert all(job.examples == 0 for job in jobs if job.method in ("linear", "multi-step"))
    assert len(jobs) == 2 + 2 + 2 * 2 + 2
    some = jobs_of(recipe, ["l*/*translate*", "multi-step"])
    assert {(cell.method, cell.task) for job in some for cell in job.cells} == {
        ("linear", TASKS[0]),
        ("lc", TASKS[0]),
        ("multi-step", TASKS[0]),
        ("multi-step", TASKS[1]),
    }
    with pytest.raises(OnepassError, match="no cell of recipe micro is like nothing"):
        jobs_of(recipe, ["nothing"])


def test_a_budget_beyond_the_corpus_is_refused(small: Small, tmp_path: Path) -> None:
    with pytest.raises(OnepassError, match=r"budget is 500, but .* has 24 training examples"):
        make_plan(small(examples=[500])[0], tmp_path / "out")


def test_a_folder_of_something_else_is_refused(small: Small, tmp_path: Path) -> None:
    bench(small(methods=["zero-shot"]), tmp_path / "out")
    with pytest.raises(OnepassError, match="holds the runs of recipe micro, not of other"):
        bench(small(methods=["zero-shot"], name="other"), tmp_path / "out")
    with pytest.raises(OnepassError, match="holds something other than runs"):
        bench(small(methods=["zero-shot"]), tmp_path / "in")


def test_scores_survive_packing() -> None:
    scores = [1.0, 0.0, None, 0.12345, 1 / 3]
    assert unpack(pack(scores)) == [1.0, 0.0, None, 0.123, 0.333]


def test_the_commands(
    tmp_path: Path, base_folder: Path, make_adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_recipe(tmp_path / "in", base_folder, make_adapter)
    out, runner = tmp_path / "out", CliRunner()
    command = ["bench", str(path), "--out", str(out), "--workers", "0"]
    some = runner.invoke(build_app(), [*command, "--only", "zero-shot/summarize*"])
    assert some.exit_code == 0, some.output
    assert len(list(out.glob("*/*/*/run.json"))) == 1
    everything = runner.invoke(build_app(), command)
    assert everything.exit_code == 0, everything.output
    assert "6 cells, 1 of them done already" in everything.output
    shown = runner.invoke(build_app(), ["report", str(out), "--format", "table2"])
    assert shown.output.splitlines()[0].startswith("method,inferences,additional_parameters")
    assert len(shown.output.splitlines()) == 1 + 3
    shutil.rmtree(tmp_path / "in" / "adapters" / "reply")
    path.write_text(path.read_text().replace("  reply: adapters/reply\n", ""), encoding="utf-8")
    failing = runner.invoke(build_app(), command)
    assert failing.exit_code == 1, failing.output
    assert "failed: linear reply+tone:witty: reply+tone:witty needs an adapter" in failing.output
