"""Examples one by one: worst first, where two methods differ, and that text is only ever shown."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli_kit import onepass
from judge_kit import COUNT, METHODS, TASKS, write_runs
from onepass.comparison.examples import read_example_rows
from onepass.comparison.listing import (
    LONGEST,
    Listing,
    differences,
    errors,
    listing_csv,
    listing_jsonl,
    listing_markdown,
    shown_text,
)
from onepass.comparison.report import read_results
from onepass.comparison.results import Results
from onepass.comparison.runs import PREDICTIONS
from onepass.core.errors import OnepassError
from onepass.core.files import read_jsonl, write_jsonl
from onepass.core.text import visible

Capture = pytest.CaptureFixture[str]
HOSTILE = "[bold red]x[/] \x1b[31mred\x1b[0m \x9b2J \u202eback | `a` <b>\r\n# no title\x00"


def listed(folder: Path, *methods: str, limit: int = 100) -> Listing:
    results = read_results(folder)
    rows = read_example_rows(folder, results, methods)
    if len(methods) == 1:
        return errors(results, rows, methods[0], limit)
    one, other = methods
    return differences(results, rows, one, other, limit)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("listing") / "runs")


def test_the_worst_come_first(folder: Path) -> None:
    found = listed(folder, "lc")
    scores = [row.answers["lc"].scores for row in found.rows()]
    assert [each["verified"] for each in scores] == [0.0] * 4 + [1.0] * 8
    assert "4 of 12 outputs are not verified; the worst 12 of 12" in found.summary
    short = listed(folder, "lc", limit=3)
    assert short.rows() == found.rows()[:3]


def test_of_equally_wrong_ones_the_tasks_metric_decides(folder: Path) -> None:
    results = read_results(folder)
    rows = read_example_rows(folder, results, ["zero-shot"])
    for place, row in enumerate(rows):
        own = "rougeL" if row.task == TASKS[0] else "weighted_rouge"
        row.answers["zero-shot"].scores[own] = 1 - place / 100  # type: ignore[index]
    assert errors(results, rows, "zero-shot", 100).rows() == rows[::-1]


def test_where_two_methods_differ(folder: Path) -> None:
    found = listed(folder, "lc", "linear")
    (title, above), (other, below) = found.parts
    assert title == "lc right, linear wrong: 6 of 6"
    assert other == "linear right, lc wrong: 0 of 0"
    assert {row.id for row in above} == {"test-1", "test-2", "test-3"}
    assert below == []
    assert "lc right and linear wrong on 6, the other way round on 0, equal on 6 of 12" in (
        found.summary
    )
    assert "+50.0 points of verified" in found.summary
    assert listed(folder, "linear", "lc").parts[1][1] == above
    assert [len(rows) for _, rows in listed(folder, "lc", "linear", limit=2).parts] == [2, 0]


def test_graded_metrics_sort_by_the_difference(folder: Path) -> None:
    results = read_results(folder)
    graded = []
    for run in results.runs:
        result = run.splits["test"]
        means = {name: mean for name, mean in result.means.items() if name != "verified"}
        graded.append(
            run.model_copy(update={"splits": {"test": result.model_copy(update={"means": means})}})
        )
    results = Results(results.recipe, graded)
    assert results.headline == "task_metric"
    rows = read_example_rows(folder, results, ["lc", "linear"])
    ((title, above), _) = differences(results, rows, "lc", "linear", 100).parts
    assert title.startswith("lc better, linear worse: 6")
    gaps = []
    for row in above:
        own = "rougeL" if row.task == TASKS[0] else "weighted_rouge"
        one, other = (row.answers[name].scores[own] for name in ("lc", "linear"))
        assert one is not None
        assert other is not None
        gaps.append(one - other)
    assert gaps == sorted(gaps, reverse=True)
    assert "mean task_metric" in errors(results, rows, "lc", 1).summary


def test_methods_without_a_conversation_in_common(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "runs")
    for path in (folder / "lc" / "reply+tone-witty").rglob("run.json"):
        path.unlink()
    for path in (folder / "linear" / "summarize+translate-es").rglob("run.json"):
        path.unlink()
    with pytest.raises(OnepassError, match="no scores of verified on the same"):
        listed(folder, "lc", "linear")
    with pytest.raises(OnepassError, match="two different methods"):
        listed(folder, "lc", "lc")


def test_csv_and_json_lines_have_all_of_each_text(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "runs", wrong=HOSTILE + "x" * 2 * LONGEST)
    one = listed(folder, "zero-shot")
    said = HOSTILE + "x" * 2 * LONGEST
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(listing_csv(one), newline="")))
    assert [row["id"] for row in rows] == [row.id for row in one.rows()]
    assert {row["output"] for row in rows} == {said}
    assert {row["verified"] for row in rows} == {"0.0"}
    lines = [json.loads(line) for line in listing_jsonl(one).splitlines()]
    assert {line["output"] for line in lines} == {said}
    assert lines[0]["scores"]["verified"] == 0
    two = listed(folder, "lc", "zero-shot")
    (row, *_) = csv.DictReader(io.StringIO(listing_csv(two), newline=""))
    assert (row["output_zero-shot"], row["output_lc"]) == (said, row["target"])
    line = json.loads(listing_jsonl(two).splitlines()[0])
    assert line["answers"]["zero-shot"]["output"] == said


@pytest.mark.parametrize("args", [("--errors", "zero-shot"), ("--compare", "lc++", "zero-shot")])
def test_a_terminal_is_not_steered_by_what_models_write(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    folder = write_runs(tmp_path / "runs", wrong=HOSTILE)
    (first, *rest) = read_jsonl(path := next((folder / "zero-shot").rglob(PREDICTIONS)))
    long = {**first[1], "prediction": HOSTILE + "x" * 1_000_000}
    write_jsonl(path, [long, *(row for _, row in rest)])
    monkeypatch.setenv("COLUMNS", "80")
    shown = onepass(capsys, "report", folder, *args, "--limit", 24).succeeded().out
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
    flat = re.sub(r"\s+", "", shown)
    assert "[boldred]x[/]" in flat
    assert r"\x1b[31mred" in flat
    assert "…(1,000,0" in flat
    assert len(shown) < 100_000
    assert max(map(len, shown.splitlines())) <= 80


def test_markdown_shows_texts_as_they_are(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "runs", wrong=HOSTILE)
    text = listing_markdown(listed(folder, "lc++", "zero-shot", limit=1))
    assert "&lt;b&gt;<br>\\# no title\\x00" in text.replace("\\\\x00", "\\x00")
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {4}
    assert "\x1b" not in text


def test_options_that_do_not_go_together(folder: Path, capsys: Capture, tmp_path: Path) -> None:
    def refused(*args: object, words: tuple[str, ...]) -> None:
        onepass(capsys, "report", folder, *args).refused(*words)

    refused("--errors", "lc", "--compare", "lc", "linear", words=("give one of them",))
    refused("--errors", "lcc", words=("unknown method 'lcc'", "'lc'"))
    refused("--compare", "lc", "linaer", words=("unknown method 'linaer'", "'linear'"))
    refused("--errors", "lc", "--format", "table1", words=("table1 is a table",))
    refused("--errors", "lc", "--out", tmp_path / "o", words=("--out is for tables",))
    refused("--limit", "3", words=("--limit belongs to --errors or --compare",))
    refused("--format", "jsonl", words=("is for --errors and --compare",))


def test_every_method_is_listed_in_every_format(folder: Path, capsys: Capture) -> None:
    for form in ("table", "markdown", "csv", "jsonl"):
        shown = onepass(capsys, "report", folder, "--errors", "linear", "--format", form)
        assert "test-" in shown.succeeded().out
    assert set(METHODS) == {run.method for run in read_results(folder).runs}
    assert COUNT == 6


@given(st.text())
def test_what_is_shown_has_no_control_characters(text: str) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", visible(text))
    assert len(shown_text(text)) <= 6 * LONGEST + 40
