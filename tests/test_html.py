"""The report as a page: all of the report is in it, and what models wrote stays text."""

import base64
import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import onepass as op
from cli_kit import onepass
from html_kit import Page, read_page
from judge_kit import COUNT, METHODS, TASKS, write_runs
from onepass.comparison import winners as winning
from onepass.comparison.examples import Answer, ExampleRow
from onepass.comparison.html import embedded as embedding
from onepass.comparison.html.embedded import EXAMPLES, SIZE, TEXT, Embedded, embedded
from onepass.comparison.html.page import heat_map, page, write_page
from onepass.comparison.html.plots import BOTTOM, LINE, TOP, beside, spread
from onepass.comparison.recipe import Recipe
from onepass.comparison.report import Report, make_report, read_results
from onepass.comparison.results import Results
from onepass.comparison.runs import PREDICTIONS
from onepass.comparison.winners import winners
from onepass.core.errors import OnepassError
from test_report import a_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_runs(tmp_path_factory.mktemp("html") / "runs")


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return read_results(folder)


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return make_report(folder)


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "page.html"
    write_page(folder, out)
    return out


def data_of(found: Page) -> Any:
    at = [attributes for tag, attributes in found.elements if tag == "script"]
    assert [each.get("type") for each in at] == ["application/json", None]
    return json.loads(found.texts["script"][0])


def test_every_table_is_in_it(written: Path, report: Report, results: Results) -> None:
    found = read_page(written)
    cells = {text.strip() for tag in ("td", "th") for text in found.texts[tag]}
    for table in (*report.shown(), report.per_task):
        assert {column.heading for column in table.columns} <= cells
        assert {text for row in table.texts() for text in row} <= cells
        assert table.title in found.texts["h3"] or table is report.per_task
    assert set(METHODS) <= cells
    assert set(TASKS) <= cells
    heat = [row for row in heat_map(results).rows if row[0] == "lc"]
    assert heat == [["lc", *(pytest.approx(100 * 4 / COUNT) for _ in TASKS)]]
    assert {text for row in heat_map(results).texts() for text in row} <= cells
    assert report.setting in found.texts["header"][0]


def test_its_links_lead_to_its_sections(written: Path) -> None:
    found = read_page(written)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for tag, attributes in found.elements if tag == "a"]
    assert links
    assert {f"#{name}" for name in ids} >= set(links)


def test_it_asks_for_nothing(written: Path) -> None:
    found = read_page(written)
    for tag, attributes in found.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "action", "srcset", "poster", "data", "xlink:href"):
                assert (value or "").startswith("#") or value == "data:,", (tag, name, value)
            assert not name.startswith("on"), (tag, name)
            assert name != "style", tag
    (style,) = found.texts["style"]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = (a["content"] for _, a in found.elements if "http-equiv" in a)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    for kind, text in (("style", style), ("script", found.texts["script"][1])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert not re.search(r"https?:|fetch\(|XMLHttp|import\(|innerHTML", found.texts["script"][1])


def test_the_examples_are_those_of_the_runs(written: Path) -> None:
    data = data_of(read_page(written))
    assert data["methods"] == list(METHODS)
    assert len(data["examples"]) == COUNT * len(TASKS)
    assert [each["task"] for each in data["examples"][:4]] == [*TASKS, *TASKS]  # in turn
    for place, example in enumerate(data["examples"][:: len(TASKS)]):
        for method, right in METHODS.items():
            answer = example["outputs"][method]
            assert answer["scores"]["verified"] == right(place)
            assert (answer["text"] in example["targets"]) == right(place)
            assert bool(answer["why"]) != right(place)


HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!-- <script> ]]> --!>",
    "\"><svg onload=alert(1)>' onmouseover='x",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31mred\x1b]8;;http://evil.example\x07link\x1b\\ \x00\x7f\x9b",
    "[bold red]markup[/bold red]",
    '=HYPERLINK("http://evil.example")',
    "line\u2028separator\u2029\u202ereversed",
]


def row(output: str, task: str = TASKS[0], seed: int = 0, id: str = "e") -> ExampleRow:
    answer = Answer(output, {"verified": 0.0, "rougeL": 0.25}, output)
    return ExampleRow(task, seed, id, output, (output,), {"lc": answer, "lc++": answer})


@pytest.mark.parametrize("text", HOSTILE)
def test_what_models_write_stays_text(text: str, report: Report, results: Results) -> None:
    harmless, hostile = (
        Page(page(report, results, embedded([row(output)], "test"), recipe))
        for output, recipe in (("words", "name: x"), (text, text))
    )
    assert hostile.elements == harmless.elements
    (example,) = data_of(hostile)["examples"]
    assert example["input"] == example["targets"][0] == example["outputs"]["lc"]["text"] == text
    shown = hostile.texts["pre"][0]
    assert not re.search(r"[\0-\x08\x0b-\x1f\x7f-\x9f]", shown)
    assert len(shown) == len(text)


def test_half_a_character_is_replaced(report: Report, results: Results, tmp_path: Path) -> None:
    text = page(report, results, embedded([row("a\ud800b")], "test"), "c\udfffd")
    assert data_of(Page(text))["examples"][0]["input"] == "a\ufffdb"
    (tmp_path / "page.html").write_text(text, encoding="utf-8")


def test_of_a_long_text_the_page_has_the_beginning(report: Report, results: Results) -> None:
    found = embedded([row("x" * 10**6)], "test")
    assert len(found.json) < 10 * TEXT
    assert f"{10**6 - TEXT:,} more characters" in found.json
    assert f"longer than {TEXT:,} characters" in found.note
    assert Page(page(report, results, found))


def test_a_page_has_so_many_examples_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row("x", task, id=str(n)) for task in TASKS for n in range(EXAMPLES)]
    found = embedded(rows, "test")
    assert found.count == EXAMPLES
    examples = json.loads(found.json)["examples"]
    assert {each["task"] for each in examples} == set(TASKS)
    assert f"{EXAMPLES} of the {2 * EXAMPLES} examples" in found.note
    assert "the rest is left out" in found.note
    monkeypatch.setattr(embedding, "SIZE", 1000)
    few = embedded(rows, "test")
    assert 0 < few.count < 10
    assert len(few.json) < 1200
    assert SIZE < 10**7


def test_with_several_seeds_the_first_is_shown() -> None:
    found = embedded([row(f"seed {seed}", seed=seed) for seed in (3, 4)], "test")
    data = json.loads(found.json)
    assert [each["input"] for each in data["examples"]] == ["seed 3"]
    assert data["binary"] == ["verified"]
    assert "first seed" in found.note


def test_without_predictions_it_says_why(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "runs")
    for path in folder.rglob(PREDICTIONS):
        path.unlink()
    found = write_page(folder, tmp_path / "page.html")
    assert found.count == 0
    shown = read_page(tmp_path / "page.html")
    assert any("copied without their predictions" in text for text in shown.texts["p"])
    assert "form" not in shown.texts
    assert shown.texts["table"]


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "page.html"
    out.write_text("old")
    with pytest.raises(OnepassError, match=r"has no recipe\.yaml"):
        write_page(tmp_path, out)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_the_command_and_the_function_write_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = onepass(capsys, "report", folder, "--html", tmp_path / "a.html").succeeded()
    assert done.out == ""
    assert "12 of the 12 examples" in done.err
    found = op.report(folder, html=tmp_path / "b.html")
    assert found.title == "town"
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    onepass(capsys, "report", folder, "--html", tmp_path).refused("a folder of that name exists")
    both = onepass(capsys, "report", folder, "--html", tmp_path / "c.html", "--errors", "lc")
    both.refused("--html holds all examples already")


def test_the_winner_is_the_best_and_those_it_cannot_be_told_from(results: Results) -> None:
    (found,) = winners(results).rows
    # lc differs from it on 4 of 12 conversations (p = 2/16), linear on 10 (p = 2/1024).
    assert found == [100, "lc++", 100.0, 100.0, 100.0, "lc", "lc++", 100.0]


def test_sparing_tests_changes_no_winner(monkeypatch: pytest.MonkeyPatch) -> None:
    quality = {"zero-shot": 0.05, "linear": 0.5, "multi-step": 0.9, "lc": 0.88, "lc++": 0.95}
    tasks = [TASKS[0], "reply+tone:casual"]
    recipe = Recipe(name="town", tasks=tasks, methods=list(quality), examples=[100, 1000])
    runs = [
        a_run(name, task, examples, right * (0.5 if examples == 100 else 1))
        for name, right in quality.items()
        for task in tasks
        for examples in ((100, 1000) if "lc" in name else (0,))
    ]
    found = winners(Results(recipe, runs)).rows
    assert [row[0] for row in found] == [100, 1000]
    assert [row[1] for row in found] == ["multi-step", "lc++"]
    monkeypatch.setattr(winning, "_ENOUGH", 10**9)
    assert winners(Results(recipe, runs)).rows == found


def test_the_docs_have_the_limits() -> None:
    docs = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    wanted = f"at most {EXAMPLES} examples, {SIZE / 1e6:g} MB of them, and {TEXT:,} characters"
    assert wanted in " ".join(docs.split())


def test_without_scores_there_is_a_page_all_the_same(folder: Path, results: Results) -> None:
    bare = [
        run.model_copy(
            update={
                "splits": {
                    split: result.model_copy(update={"means": {}, "scores": {}})
                    for split, result in run.splits.items()
                }
            }
        )
        for run in results.runs
    ]
    assert winners(Results(results.recipe, bare)).rows == []
    text = page(make_report(folder), Results(results.recipe, bare), Embedded("none"))
    assert "No method has a score yet." in Page(text).texts["p"]


@given(st.lists(st.floats(TOP, 400 - BOTTOM), max_size=20))
def test_labels_stand_below_each_other_in_order(wanted: list[float]) -> None:
    height = TOP + BOTTOM + LINE * 21
    ys = spread({str(n): y for n, y in enumerate(wanted)}, height)
    order = sorted(ys, key=lambda name: wanted[int(name)])
    found = [ys[name] for name in order]
    assert all(b - a >= LINE - 1e-9 for a, b in pairwise(found))
    assert all(TOP - 1e-9 <= y <= height - BOTTOM for y in found)


@given(st.lists(st.tuples(st.floats(50, 400), st.floats(TOP, 300)), max_size=5))
def test_labels_of_points_cover_no_other(points: list[tuple[float, float]]) -> None:
    labels = list(beside({str(n): point for n, point in enumerate(points)}, 400).values())
    for place, (x, y) in enumerate(labels):
        for other_x, other_y in labels[:place]:
            assert abs(x - other_x) >= 6 or abs(y - other_y) >= LINE
