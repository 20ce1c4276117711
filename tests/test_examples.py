"""What methods made of each example: joined from runs, read from what cells keep or the corpus."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from judge_kit import COUNT, TASKS, write_runs
from onepass.comparison.examples import (
    Outcome,
    gather,
    kept_row,
    read_example_rows,
    read_outputs,
    reasons,
    runs_of,
)
from onepass.comparison.materials import corpus_examples, split_examples
from onepass.comparison.results import Results
from onepass.comparison.runs import EXAMPLES, PREDICTIONS, Run, load_runs
from onepass.core.errors import OnepassError
from onepass.core.files import write_jsonl
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import load_corpus

Damage = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_runs(tmp_path / "runs")


def results(folder: Path) -> Results:
    return Results(*load_runs(folder))


def keep(folder: Path) -> None:
    """Give every cell the file that the bench writes where the recipe says `keep`."""
    recipe, runs = load_runs(folder)
    for run in runs:
        outputs = read_outputs(folder, run, recipe, ["test"])["test"]
        task = recipe.task(run.task)
        rows = [kept_row("test", example, text, task) for example, text in outputs]
        write_jsonl(folder / run.cell.place / EXAMPLES, rows)


def test_a_row_has_an_example_with_the_output_and_scores_of_each_method(folder: Path) -> None:
    rows = read_example_rows(folder, results(folder))
    assert len(rows) == COUNT * len(TASKS)
    examples = load_corpus("smalltown").examples(parse_task(TASKS[0]), "test", COUNT)
    for place, (row, example) in enumerate(zip(rows, examples, strict=False)):
        assert (row.task, row.id, row.input) == (TASKS[0], example.id, example.input)
        assert row.targets == example.targets
        assert list(row.answers) == ["zero-shot", "linear", "lc", "lc++"]
        assert row.answers["lc++"].output == example.target
        assert row.answers["lc++"].scores["verified"] == 1
        assert row.answers["lc++"].reasons == ""
        assert row.answers["lc"].scores["verified"] == (place < 4)
        assert row.answers["zero-shot"].reasons.startswith("facts: ")


def test_rows_of_one_method_need_no_other(folder: Path) -> None:
    for path in (folder / "lc").rglob(PREDICTIONS):
        path.unlink()
    (row, *_) = read_example_rows(folder, results(folder), ["linear"])
    assert list(row.answers) == ["linear"]
    with pytest.raises(OnepassError, match=r"lc/.*predictions\.jsonl does not exist"):
        read_example_rows(folder, results(folder))


def test_what_a_cell_keeps_stands_in_for_corpus_and_predictions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_example_rows(folder, results(folder))
    keep(folder)
    for path in folder.rglob(PREDICTIONS):
        path.unlink()
    monkeypatch.setattr("onepass.comparison.examples.split_examples", None)
    assert read_example_rows(folder, results(folder)) == before


def test_runs_on_other_conversations_are_rows_of_their_own(folder: Path) -> None:
    found = results(folder)
    tested: list[tuple[Run, list[Outcome]]] = []
    for run in (found.of("linear")[0], found.of("lc")[0]):
        other = run.splits["test"].model_copy(update={"inputs": run.method})
        examples = split_examples(found.recipe, run.task, "test")
        outputs = [Outcome(e.id, e.input, e.targets, e.target, "") for e in examples]
        tested.append((run.model_copy(update={"splits": {"test": other}}), outputs))
    rows = gather(tested, "test")
    assert [list(row.answers) for row in rows] == [["linear"]] * COUNT + [["lc"]] * COUNT


def test_unknown_methods_and_methods_without_runs(folder: Path) -> None:
    with pytest.raises(OnepassError, match=r"unknown method 'linaer': did you mean 'linear'"):
        runs_of(results(folder), "linaer")
    for path in (folder / "lc").rglob("run.json"):
        path.unlink()
    with pytest.raises(OnepassError, match=r"no cell of method 'lc' is finished; .*zero-shot"):
        runs_of(results(folder), "lc")


def cut(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: len(text) - 30], encoding="utf-8")


def drop_line(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")


def rename_first(path: Path) -> None:
    first, *rest = path.read_text(encoding="utf-8").splitlines(keepends=True)
    row = {**json.loads(first), "id": "another"}
    path.write_text("".join([json.dumps(row) + "\n", *rest]), encoding="utf-8")


def swap(path: Path) -> None:
    one, two, *rest = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join([two, one, *rest]), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "does not exist"),
        (cut, f"line {COUNT}: not JSON"),
        (drop_line, f"has {COUNT - 1} predictions on the split 'test', but {COUNT} were scored"),
        (rename_first, "has no example 'another'"),
        (swap, "has its examples in another order"),
        (lambda path: path.write_bytes(b"\xff\n"), "not UTF-8"),
        (lambda path: path.write_text('{"split": "test", "id": 3}\n'), 'line 1: "id" is not'),
    ],
)
def test_damaged_predictions(folder: Path, damage: Damage, message: str) -> None:
    path = next((folder / "linear").rglob(PREDICTIONS))
    damage(path)
    with pytest.raises(OnepassError, match=message):
        read_example_rows(folder, results(folder), ["linear"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, f"line {COUNT}: not JSON"),
        (drop_line, f"has {COUNT - 1} predictions"),
        (
            lambda path: path.write_text('{"split": "test", "id": "a", "targets": [1]}\n'),
            "line 1: not an example",
        ),
    ],
)
def test_damaged_examples(folder: Path, damage: Damage, message: str) -> None:
    keep(folder)
    damage(next((folder / "linear").rglob(EXAMPLES)))
    with pytest.raises(OnepassError, match=message):
        read_example_rows(folder, results(folder), ["linear"])


def test_a_corpus_that_has_moved(tmp_path: Path) -> None:
    corpus = tmp_path / "data"
    corpus.mkdir()
    rows = [
        {"id": str(n), "input": f"Ana: {n}?\nBen: Yes.", "target": f"{n} it is."}
        for n in range(COUNT)
    ]
    (corpus / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = write_runs(tmp_path / "runs", corpus=str(corpus))
    moved = corpus.rename(tmp_path / "elsewhere")
    corpus_examples.cache_clear()
    with pytest.raises(OnepassError, match=r"cannot be read from here .*--corpus"):
        read_example_rows(folder, results(folder), ["linear"])
    (row, *_) = read_example_rows(folder, results(folder), ["linear"], str(moved))
    assert (row.targets, row.answers["linear"].output) == (("0 it is.",), "0 it is.")
    assert row.answers["linear"].reasons == ""


def test_reasons_are_the_verifiers() -> None:
    task = parse_task(TASKS[0])
    one, two = load_corpus("smalltown").examples(task, "test", 2)
    assert reasons(one.target, one, task) == ""
    assert "facts" in reasons(two.target, one, task)
    assert "language: en, not es" in reasons(one.input.splitlines()[0], one, task)
