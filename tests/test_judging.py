"""`onepass judge`: nothing is asked twice, nothing unread counts, and the report shows it."""

import csv
import io
import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from cli_kit import Done, onepass, rows_of, write_rows
from endpoint_kit import Stub, completion, serving
from judge_kit import COUNT, METHODS, TASKS, material, wise, write_runs
from onepass.comparison import judgements, materials
from onepass.comparison.judging import local_judge
from onepass.comparison.report import make_report
from onepass.comparison.table import Table, to_csv
from onepass.serve import endpoint as endpoint_module
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import load_corpus

Capture = pytest.CaptureFixture[str]
OUTPUTS = len(METHODS) * len(TASKS) * COUNT


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.delenv(endpoint_module.KEY, raising=False)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return write_runs(tmp_path / "runs")


def judge(capsys: Capture, runs: Path, stub: Stub, *more: object) -> Done:
    return onepass(capsys, "judge", runs, "--endpoint", stub.url, "--judge-model", "stub", *more)


def judgements_of(runs: Path, name: str = "stub") -> dict[str, list[dict[str, Any]]]:
    """Each cell's file, without the date."""
    found = {}
    for path in sorted(runs.glob(f"*/*/*/judge-{name}.jsonl")):
        rows = rows_of(path.read_text(encoding="utf-8"))
        del rows[0]["date"]
        found[path.parent.relative_to(runs).as_posix()] = rows
    return found


def records(table: Table | None) -> list[dict[str, str]]:
    assert table is not None
    return list(csv.DictReader(io.StringIO(to_csv(table))))


def test_a_wise_judge_says_what_the_verifier_says(runs: Path, capsys: Capture) -> None:
    with serving(wise) as stub:
        done = judge(capsys, runs, stub).succeeded()
    # What is wrong is the same text for all methods, and what is right as well: asked once each.
    assert len(stub.asked) == len(set(stub.asked)) == 2 * len(TASKS) * COUNT
    assert f"{OUTPUTS} outputs" in done.err
    assert "tokens read" in done.err
    header, *rows = judgements_of(runs)["lc/reply+tone-witty/100-0"]
    assert header == {"format": "onepass judgements 1", "model": "stub", "prompts": "2"}
    examples = load_corpus("smalltown").examples(parse_task(TASKS[1]), "test", COUNT)
    assert rows == [
        {
            "split": "test",
            "id": example.id,
            "verdict": "yes" if METHODS["lc"](place) else "no",
            "answer": "Yes." if METHODS["lc"](place) else "**No**, it is not.",
        }
        for place, example in enumerate(examples)
    ]
    report = make_report(runs)
    verdicts, card = report.judges
    by_method = {row["method"]: row for row in records(verdicts)}
    assert [float(by_method[m]["all"]) for m in METHODS] == pytest.approx(
        [0, 100 / 6, 400 / 6, 100], abs=0.01
    )
    assert by_method["lc"]["judged"] == str(2 * COUNT)
    assert by_method["lc"]["unreadable"] == by_method["lc"]["failed"] == "0"
    last = records(card)[-1]
    assert (last["tasks"], last["outputs"]) == ("all", str(OUTPUTS))
    assert (last["both_right"], last["judge_only"], last["verifier_only"]) == ("22", "0", "0")
    assert float(last["kappa"]) == 1
    # The judge's column stands beside the verifier's, and has its correlation with the paper.
    first = {row["method"]: row for row in records(report.comparison)}
    assert first["lc"]["sum_translation_judge"] == first["lc"]["sum_translation_verified"]
    families = {row["tasks"]: row for row in records(report.families)}
    assert list(families) == ["sum_translation", "reply_tone", "all"]
    assert families["all"]["judge"] == families["all"]["verified"]
    assert report.agreement is not None
    assert float(families["all"]["judge"]) == pytest.approx(report.agreement.correlation, abs=1e-3)


def test_the_judge_is_shown_the_conversation_and_a_correct_output(
    runs: Path, capsys: Capture
) -> None:
    with serving(wise) as stub:
        judge(capsys, runs, stub, "--only", "lc/reply*").succeeded()
    examples = load_corpus("smalltown").examples(parse_task(TASKS[1]), "test", COUNT)
    shown = sorted(material(prompt)[:2] for prompt in stub.asked)
    assert shown == sorted([e.input, e.target] for e in examples)
    assert all("witty" in prompt for prompt in stub.asked)
    assert list(judgements_of(runs)) == ["lc/reply+tone-witty/100-0"]


def test_the_card_tells_a_lenient_judge_from_a_good_one(runs: Path, capsys: Capture) -> None:
    with serving(lambda prompt, times: "Yes") as stub:
        judge(capsys, runs, stub).succeeded()
    last = records(make_report(runs).judges[1])[-1]
    assert (last["both_right"], last["judge_only"], last["both_wrong"]) == ("22", "26", "0")
    assert float(last["kappa"]) == 0


def test_only_what_has_changed_is_asked_again(runs: Path, capsys: Capture) -> None:
    path = runs / "zero-shot" / "reply+tone-witty" / "0-0" / "predictions.jsonl"
    with serving(wise) as stub:
        judge(capsys, runs, stub).succeeded()
        before, asked = judgements_of(runs), len(stub.asked)
        stamps = {path: path.stat().st_mtime_ns for path in runs.rglob("judge-*")}
        assert "0 to ask" in judge(capsys, runs, stub).succeeded().err
        assert len(stub.asked) == asked
        assert judgements_of(runs) == before
        assert {path: path.stat().st_mtime_ns for path in runs.rglob("judge-*")} == stamps
        rows = rows_of(path.read_text(encoding="utf-8"))
        rows[2]["prediction"] = "Something else."
        write_rows(path, rows)
        stub.asked.clear()
        judge(capsys, runs, stub).succeeded()
    assert [material(prompt)[-1] for prompt in stub.asked] == ["Something else."]
    judge(capsys, runs, stub).succeeded()  # even if the server has gone


def test_killed_and_resumed_is_uninterrupted(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    with serving(wise) as stub:
        judge(capsys, runs, stub).succeeded()
        total = len(stub.asked)
    whole = judgements_of(runs)

    again = write_runs(tmp_path / "again")

    def interrupting(prompt: str, times: int) -> Any:
        if len(stub.asked) == 9:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            return 5.0
        return wise(prompt, times)

    with serving(interrupting) as stub:
        done = judge(capsys, again, stub, "--concurrency", 1)
    assert done.code == 130
    assert "the same command goes on" in done.err
    # The next process finds a line cut short, as a kill leaves it.
    log = again / ".judge" / "stub.jsonl"
    log.write_bytes(log.read_bytes()[:-5])
    with serving(wise) as stub:
        judge(capsys, again, stub).succeeded()
        assert len(stub.asked) == total - 7
    assert judgements_of(again) == whole
    assert len(judgements.read_answers(log)) == total


def test_a_limit_on_tokens_keeps_what_is_done(runs: Path, capsys: Capture) -> None:
    with serving(wise) as stub:
        done = judge(capsys, runs, stub, "--concurrency", 1, "--max-total-tokens", 100)
        done.refused("reached max_total_tokens 100", "run it again to go on")
        # Six outputs of the first cell are judged, so it is done with.
        assert list(judgements_of(runs)) == ["zero-shot/summarize+translate-es/0-0"]
        first = len(stub.asked)
        judge(capsys, runs, stub).succeeded()
        assert len(stub.asked) == 2 * len(TASKS) * COUNT
    assert first == 9


def test_a_price_limit_needs_prices(runs: Path, capsys: Capture) -> None:
    with serving(wise) as stub:
        judge(capsys, runs, stub, "--max-cost", 1).refused("max_cost needs input_price")
        done = judge(
            capsys, runs, stub, "--max-cost", 1, "--input-price", 1, "--output-price", 2
        ).succeeded()
    assert re.search(r"240 tokens read and 48 written, which cost 0\.000336", done.err)


def test_the_first_few_of_each_cell(runs: Path, capsys: Capture) -> None:
    with serving(wise) as stub:
        judge(capsys, runs, stub, "--limit", 2).succeeded()
        assert {len(rows) for rows in judgements_of(runs).values()} == {1 + 2}
        judge(capsys, runs, stub, "--limit", 4).succeeded()
        full = judgements_of(runs)
        judge(capsys, runs, stub, "--limit", 1).succeeded()  # takes nothing away
        assert judgements_of(runs) == full
    assert {len(rows) for rows in full.values()} == {1 + 4}
    by_method = {row["method"]: row for row in records(make_report(runs).judges[0])}
    assert float(by_method["lc"]["all"]) == 100


def test_unreadable_and_failed_are_counted_apart(runs: Path, capsys: Capture) -> None:
    """Of lc++, all of whose outputs are right, one is not read and one has no answer."""
    examples = load_corpus("smalltown").examples(parse_task(TASKS[0]), "test", COUNT)

    def reply(prompt: str, times: int) -> Any:
        if material(prompt)[0] == examples[1].input:
            return "I would rather not say."
        if material(prompt)[0] == examples[2].input:
            return (200, completion(None))
        return wise(prompt, times)

    with serving(reply) as stub:
        only = ("--only", "lc++", "--retries", 1)
        done = judge(capsys, runs, stub, *only).succeeded()
        assert "1 had no answer" in done.err
        rows = judgements_of(runs)["lc++/summarize+translate-es/100-0"][1:]
        verdicts = ["yes", "unreadable", "failed", "yes", "yes", "yes"]
        assert [row["verdict"] for row in rows] == verdicts
        assert "content is None" in rows[2]["answer"]
        (row,) = records(make_report(runs).judges[0])
        assert (row["judged"], row["unreadable"], row["failed"]) == ("12", "1", "1")
        assert float(row["all"]) == 100
        assert records(make_report(runs).judges[1])[-1]["outputs"] == "10"
        # What failed is asked again, what was unreadable is not.
        stub.reply = wise
        stub.asked.clear()
        judge(capsys, runs, stub, *only).succeeded()
    assert len(stub.asked) == 1
    rows = judgements_of(runs)["lc++/summarize+translate-es/100-0"][1:]
    assert [row["verdict"] for row in rows] == ["yes", "unreadable", "yes", "yes", "yes", "yes"]


def test_a_verdict_is_read_from_a_cut_answer_only_if_it_has_one(
    runs: Path, capsys: Capture
) -> None:
    cut = ["No, the day is miss", "The day is there, and so", "<think>Yes. But is", "Answer: Yes."]
    inputs = [e.input for e in load_corpus("smalltown").examples(parse_task(TASKS[0]), "test", 4)]

    def reply(prompt: str, times: int) -> Any:
        text = dict(zip(inputs, cut, strict=True))[material(prompt)[0]]
        return (200, completion(text, finish_reason="length"))

    only = ("--only", f"lc++/{TASKS[0]}", "--limit", 4)
    with serving(reply) as stub:
        judge(capsys, runs, stub, *only).succeeded()
    (rows,) = judgements_of(runs).values()
    assert [row["verdict"] for row in rows[1:]] == ["no", "unreadable", "unreadable", "yes"]


def test_two_judges_stand_side_by_side(runs: Path, capsys: Capture) -> None:
    with serving(wise) as stub:
        judge(capsys, runs, stub, "--name", "wise").succeeded()
        stub.reply = lambda prompt, times: "No"
        judge(capsys, runs, stub, "--name", "strict").succeeded()
    report = make_report(runs)
    row = {r["method"]: r for r in records(report.comparison)}["lc++"]
    assert float(row["sum_translation_judge-wise"]) == 100
    assert float(row["sum_translation_judge-strict"]) == 0
    assert len(report.judges) == 4
    shown = onepass(capsys, "report", runs).succeeded().out
    assert "Report card of judge strict" in shown


def test_one_name_is_not_for_two_models(runs: Path, capsys: Capture) -> None:
    with serving(wise, models=("a/judge", "b/judge")) as stub:
        command = ("judge", runs, "--endpoint", stub.url, "--judge-model")
        onepass(capsys, *command, "a/judge").succeeded()
        done = onepass(capsys, *command, "b/judge")
        done.refused("judge-judge.jsonl", "holds the judgements of a/judge", "--name")


def test_a_model_here_is_a_judge_too(runs: Path, base_folder: Path, capsys: Capture) -> None:
    """The context of the micro base is too short for the question."""
    only = ("--only", "linear/reply*", "--max-new-tokens", 8)
    done = onepass(capsys, "judge", runs, "--judge", base_folder, *only).succeeded()
    rows = judgements_of(runs, "micro")["linear/reply+tone-witty/0-0"]
    assert rows[0]["model"] == "micro"
    assert {row["verdict"] for row in rows[1:]} == {"failed"}
    assert re.fullmatch(r"too long: \d+ tokens of 192", rows[1]["answer"])
    assert "6 had no answer" in done.err


def test_the_same_model_in_other_numbers_is_another_judge(runs: Path, capsys: Capture) -> None:
    only = ("--only", "linear/reply*", "--limit", 2, "--max-new-tokens", 4, "--device", "cpu")
    command = ("judge", runs, "--judge", "tiny", *only)
    onepass(capsys, *command).succeeded()
    rows = judgements_of(runs, "tiny")["linear/reply+tone-witty/0-0"][1:]
    assert [row["verdict"] for row in rows] == ["unreadable", "unreadable"]  # it is no judge
    assert all(row["answer"] for row in rows)
    numbers = ("--dtype", "bfloat16", "--base-quantization", "q4_0")
    onepass(capsys, *command, *numbers).succeeded()
    assert len(judgements_of(runs, "tiny")) == 1
    ((header, *_),) = judgements_of(runs, "tiny-bfloat16-q4_0").values()
    assert header["model"] == "tiny bfloat16 q4_0"
    onepass(capsys, *command, *numbers, "--name", "tiny").refused("holds the judgements of tiny")
    onepass(capsys, *command, "--name", "x", "--dtype", "float8").refused("float8")
    onepass(capsys, *command, "--name", "x", "--device", "abacus").refused("abacus")


def test_a_file_is_shown_by_its_name_alone(tmp_path: Path) -> None:
    file = tmp_path / "model-Q4_1.gguf"
    file.write_bytes(b"GGUF")
    judge = local_judge(str(file), 8, 8)
    assert (judge.name, judge.model) == ("model-Q4_1.gguf", "model-Q4_1.gguf")


def test_a_judge_that_knows_nothing_agrees_with_no_metric(tmp_path: Path, capsys: Capture) -> None:
    """It says Yes to the first three outputs, good or bad; another judge says nothing else."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"id": f"{n}", "input": f"Ana: {n}?\nBen: Yes.", "target": f"{n}!"} for n in range(6)]
    write_rows(folder / "test.jsonl", rows)
    runs = write_runs(tmp_path / "runs", {"linear": lambda place: place % 3 < 2}, str(folder))
    with serving(lambda prompt, times: "Yes" if int(material(prompt)[0][5]) < 3 else "No") as stub:
        judge(capsys, runs, stub).succeeded()
    with serving(lambda prompt, times: "Yes") as stub:
        judge(capsys, runs, stub, "--name", "lenient").succeeded()
    _, lenient, _, card = make_report(runs).judges
    for row in (row for row in records(card) if row["metric"] == "R-L"):
        assert (row["outputs"], float(row["yes"])) == ("6", 50)
        assert (float(row["auc"]), float(row["spearman"])) == (0.5, 0)
    assert {(row["yes"], row["auc"], row["spearman"]) for row in records(lenient)} == {
        ("100.00", "", "")
    }


# ------------------------------------------------------------------ bad input


def test_results_without_predictions_are_told(runs: Path, capsys: Capture) -> None:
    for path in runs.rglob("predictions.jsonl"):
        path.unlink()
    with serving(wise) as stub:
        judge(capsys, runs, stub).refused("predictions.jsonl", "copied without their predictions")
    assert not stub.asked
    assert not (runs / ".judge").exists()


def test_a_corpus_that_changed_or_moved_is_told(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"id": f"{n}", "input": f"Ana: {n}?\nBen: Yes.", "target": f"{n}!"} for n in range(9)]
    write_rows(folder / "test.jsonl", rows)
    runs = write_runs(tmp_path / "runs", {"linear": lambda place: place < 2}, str(folder))
    with serving(wise) as stub:
        judge(capsys, runs, stub).succeeded()
        assert make_report(runs).judges[0].rows[0][3] == pytest.approx(100 / 3)
        # Nothing can be verified, so the metrics stand in.
        by_metric = {row["metric"]: row for row in records(make_report(runs).judges[1])}
        assert float(by_metric["R-L"]["yes"]) == pytest.approx(100 / 3, abs=0.01)
        assert float(by_metric["R-L"]["mean_yes"]) == 100
        assert float(by_metric["R-L"]["mean_no"]) < 100
        assert float(by_metric["R-L"]["auc"]) == 1
        stub.asked.clear()
        write_rows(folder / "test.jsonl", rows[1:])
        materials.corpus_examples.cache_clear()
        judge(capsys, runs, stub).refused(str(folder), "has other texts", "--corpus")
        renamed = [{**row, "id": f"x{row['id']}"} for row in rows]
        write_rows(folder / "test.jsonl", renamed)
        materials.corpus_examples.cache_clear()
        judge(capsys, runs, stub).refused("has no example '0'", "predictions.jsonl")
        moved = tmp_path / "moved"
        folder.rename(moved)
        write_rows(moved / "test.jsonl", rows)
        materials.corpus_examples.cache_clear()
        judge(capsys, runs, stub).refused("cannot be read from here", "--corpus")
        judge(capsys, runs, stub, "--corpus", moved).succeeded()
    assert not stub.asked


def test_a_server_that_is_down_wrong_or_lying_is_told(runs: Path, capsys: Capture) -> None:
    with serving(wise) as stub:
        pass
    judge(capsys, runs, stub).refused("nothing answers at", stub.url)
    with serving(lambda prompt, times: (404, {"error": {"message": "?"}}), ("good",)) as stub:
        judge(capsys, runs, stub).refused("no model 'stub'; it has good")
    with serving(lambda prompt, times: (200, "<html>Welcome</html>")) as stub:
        judge(capsys, runs, stub, "--retries", 0).refused("10 prompts in a row", "<html>Welcome")
    assert not judgements_of(runs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ["--judge MODEL", "--endpoint URL"]),
        (("--judge", "x", "--endpoint", "http://h/v1"), ["name one judge"]),
        (("--endpoint", "http://h/v1"), ["belong together"]),
        (("--judge", "x", "--judge-model", "y"), ["belong together"]),
        (("--endpoint", "h:1", "--judge-model", "y"), ["url is 'h:1'"]),
        (("--judge", "tiny", "--name", "../x"), ["--name '../x' is no file name"]),
        (("--judge", "tiny", "--only", "nothing"), ["no run in", "nothing"]),
        (("--judge", "tiny", "--splits", "train"), ["no predictions on the split 'train'"]),
    ],
)
def test_wrong_options_are_told(
    options: tuple[str, ...], words: list[str], runs: Path, capsys: Capture
) -> None:
    onepass(capsys, "judge", runs, *options).refused(*words)


def test_a_folder_of_something_else_is_told(tmp_path: Path, capsys: Capture) -> None:
    onepass(capsys, "judge", tmp_path, "--judge", "tiny").refused("has no recipe.yaml")


@pytest.mark.parametrize("damage", ["not JSON", '{"format": "other"}', ""])
def test_a_damaged_file_of_judgements_is_told(damage: str, runs: Path, capsys: Capture) -> None:
    path = runs / "linear" / "reply+tone-witty" / "0-0" / "judge-stub.jsonl"
    path.write_text(damage)
    onepass(capsys, "report", runs).refused("judge-stub.jsonl")
    path.write_text(
        json.dumps({"model": "m", "prompts": "2", "date": "x"}) + '\n{"verdict": "?"}\n'
    )
    onepass(capsys, "report", runs).refused("judge-stub.jsonl, line 2", "remove the file")
