"""The documentation says of merges, corpora and calibrations what the code says."""

import csv
import json
import re
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest
from pydantic import BaseModel

from cli_kit import onepass
from onepass.adapters.merging import MERGES
from onepass.comparison.recipe import Recipe, Training
from onepass.methods.calibration import LC_RATE, LCPP_RATE
from onepass.tasks.corpora.facts import facts_of
from onepass.tasks.corpus import CORPORA, SPLITS

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
HEADINGS = ["Idea", "Formula", "Options", "Cost", "Where ours differs"]


def sections() -> dict[str, str]:
    parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {name.strip(): body for name, _, body in (part.partition("\n") for part in parts)}
    for title in ("Adapters that can be merged", "Pico, before any of them"):
        assert found.pop(title)
    assert found.pop("Weights that are learnt")
    assert found.pop("Speed")
    return found


def test_there_is_a_section_for_each_merge_in_their_order() -> None:
    assert list(sections()) == list(MERGES)


@pytest.mark.parametrize("name", list(MERGES))
def test_a_section_has_the_template_and_the_true_options(name: str) -> None:
    body, merge = sections()[name], MERGES.get(name)
    assert re.findall(r"^- ([\w ]+):", body, re.MULTILINE) == HEADINGS
    told = dict(re.findall(r"`(\w+)` \(([\w.]+)[:;,)]", body))
    assert told == {option: str(default) for option, default in merge.options.items()}
    assert ("Weights 1 by default" in body) == (not merge.shares)


README = Path(__file__).parents[1] / "README.md"
REPORT = Path(__file__).parents[1] / "results" / "smalltown" / "report.md"


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a markdown text, as rows of cells, their headers first."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("| "):
            found[-1].append([cell.strip(" *") for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[row for row in rows if not set("".join(row)) <= set("-: ")] for rows in found if rows]


@pytest.mark.skipif(not REPORT.exists(), reason="results are in the repository only")
def test_the_page_on_calibration_tells_the_figures_of_the_report() -> None:
    report = tables(REPORT.read_text(encoding="utf-8"))
    (cost,) = (rows for rows in report if rows[0][1] == "inferences")
    (splits,) = (rows for rows in report if "test-wordings" in rows[0])
    passes = {row[0]: (row[1], float(row[4])) for row in cost[1:]}
    right = {row[0]: (row[splits[0].index("test")], row) for row in splits[1:]}
    retold = splits[0].index("test-wordings")
    (ours,) = (rows for rows in tables(CALIBRATION.read_text("utf-8")) if "verified, %" in rows[0])
    assert len(ours) > 5
    for name, *cells in ours[1:]:
        share, row = right[name]
        assert cells[:3] == [share, row[retold], passes[name][0]], name
        assert float(cells[3]) == passes[name][1], name


@pytest.mark.skipif(not REPORT.exists(), reason="results are in the repository only")
def test_the_page_tells_the_figures_of_the_benchmark() -> None:
    measured = json.loads((REPORT.parents[1] / "merge.json").read_text(encoding="utf-8"))
    rows = {
        (row["merge"] + (" to rank 32" if row["merge"] == "linear" else ""), row["adapters"]): row
        for row in measured["rows"]
    }
    (told,) = (t for t in tables(PAGE.read_text(encoding="utf-8")) if "times faster" in t[0])
    for name, kind, count, seconds, faster, ours, theirs, limit in told[1:]:
        row = rows[name, int(count)]
        assert row["peft"]["kind"] == kind
        assert float(seconds) == pytest.approx(row["ours"]["seconds"], rel=0.1)
        assert float(faster) == pytest.approx(row["faster"], rel=0.03)
        assert float(ours) == pytest.approx(row["ours"]["mib"], abs=1)
        assert float(theirs.replace(",", "")) == pytest.approx(row["peft"]["mib"], abs=1)
        found = row["ours"]["seconds"] / row["limit"]
        assert float(limit.replace(",", "")) == pytest.approx(found, rel=0.02)


def test_the_cost_of_rounding_is_as_measured() -> None:
    root = PAGE.parents[1]
    measured = json.loads((root / "results" / "quantized.json").read_text(encoding="utf-8"))
    page = (root / "docs" / "device.md").read_text(encoding="utf-8")
    (told,) = (table for table in tables(page) if "calibrated on" in table[0])
    for (engine, base, adapters, trained, right), (name, mean) in zip(
        told[1:], measured["means"].items(), strict=True
    ):
        rounding = "none" if trained == "the base as it is" else trained.rpartition(" ")[2]
        assert name == f"{engine} {base} {rounding} {adapters}"
        assert float(right) == pytest.approx(mean, abs=0.005)


def test_the_speed_on_a_device_is_as_measured() -> None:
    root = PAGE.parents[1]
    measured = json.loads((root / "results" / "device.json").read_text(encoding="utf-8"))
    page = (root / "docs" / "device.md").read_text(encoding="utf-8")
    (told,) = (table for table in tables(page) if "multi-step" in table[0])
    forms = [(case["conversation"], case["forms"]) for r in measured["rows"] for case in r["cases"]]
    for (_, kind, tokens, seconds, *faster), (conversation, found) in zip(
        told[1:], forms, strict=True
    ):
        assert kind == conversation
        assert tokens == f"{found['parts']['read']:.0f}, {found['parts']['written']:.0f}"
        whole = found["multi-step"]["seconds"]
        assert float(seconds.removesuffix(" s")) == pytest.approx(whole, rel=0.005)
        for form, times in zip(told[0][4:], faster, strict=True):
            assert times == f"{whole / found[form]['seconds']:.2f}x", (kind, form)
    one_billion = measured["rows"][1]
    for text in (
        f"{one_billion['bytes_added']['lc++'] / 1e6:.2f} MB",
        f"{one_billion['peak_bytes'] / 2**30:.1f} GiB",
    ):
        assert text in " ".join(page[page.index("## Speed") :].split()), text


DATA = Path(__file__).parents[1] / "docs" / "data.md"


def data_sections() -> dict[str, str]:
    parts = re.split(r"^## ", DATA.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    found = {name.strip(): body for name, _, body in (part.partition("\n") for part in parts)}
    assert found.pop("Files and splits")
    assert found.pop("Your own rows")
    return found


def test_there_is_a_section_for_each_corpus() -> None:
    assert sorted(data_sections()) == sorted(CORPORA)


@pytest.mark.parametrize("name", list(CORPORA))
def test_a_section_has_the_template_and_the_true_facts(name: str) -> None:
    body, facts = " ".join(data_sections()[name].split()), facts_of(name)
    assert re.findall(r"- (What|Get it|Layout|Licence|Cite): ", body) == [
        "What", "Get it", "Layout", "Licence", "Cite",
    ]  # fmt: skip
    if facts.hub:
        assert facts.hub.partition("@")[0] in body
    counts = {split: f"{counts[0]:,}" for split, counts in (facts.rows or {}).items()}
    if set(counts) == set(SPLITS):
        assert "{train}, {validation} and {test}".format(**counts) in body
    assert all(count in body for count in counts.values())
    if name != "smalltown":
        assert all(task in body for task in facts.tasks)
    for number in re.findall(r"arXiv:(\S+)", facts.citation):
        assert f"arXiv {number}" in body
    assert re.findall(r"CC BY[A-Z-]* \d\.\d", facts.licence) == re.findall(
        r"CC BY[A-Z-]* \d\.\d", body
    )


CALIBRATION = Path(__file__).parents[1] / "docs" / "calibration.md"


def test_every_function_that_the_calibration_page_names_exists() -> None:
    named = re.findall(r"\[`([^`]+)`\]\(\.\./src/([^)]+)\.py\)", CALIBRATION.read_text("utf-8"))
    assert len(named) > 20
    for function, path in named:
        found = attrgetter(function)(import_module(path.replace("/", ".")))
        assert found.__module__ == path.replace("/", "."), f"{function} is in {found.__module__}"


def test_the_calibration_page_has_the_counts_and_rates_of_the_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = CALIBRATION.read_text(encoding="utf-8")
    (counts,) = (table for table in tables(page) if table[0][0] == "model")
    rows = onepass(capsys, "cost").succeeded().out.splitlines()
    assert counts == [row.split("\t") for row in rows]
    rates = (f"{rate:.0e}".replace("e-0", "e-") for rate in (LC_RATE, LCPP_RATE))
    assert "{} for LC, {} for LC++".format(*rates) in page


def test_the_page_on_recipes_has_every_field_with_its_default() -> None:
    page = (README.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    recipe, train = (
        {name for row in rows[1:] for name in re.findall(r"`(\w+)`", row[0])}
        for rows in tables(page)
    )
    assert recipe - {"tasks_from"} == set(Recipe.model_fields) - {"declared"}
    assert train == set(Training.model_fields)
    models: tuple[type[BaseModel], ...] = (Recipe, Training)
    for rows, model in zip(tables(page), models, strict=True):
        for names, _, given in rows[1:]:
            found = re.findall(r"`(\w+)`", names)
            numbers = [int(number) for number in re.findall(r"^\d+|(?<=, )\d+", given)]
            defaults = [model.model_fields[n].default for n in found if n in model.model_fields]
            for number, default in zip(numbers, defaults, strict=False):
                assert default in (number, [number], None), names


REAL = README.parent / "results" / "real"
BASES = {"Gemma": "gemma-french-summaries", "SmolLM2": "smollm2-french-summaries"}


@pytest.mark.skipif(not REAL.exists(), reason="results are in the repository only")
@pytest.mark.parametrize("page", ["README.md", "docs/real.md"])
def test_the_figures_on_real_text_are_those_of_the_reports(page: str) -> None:
    text = (README.parent / page).read_text(encoding="utf-8")
    (told,) = (rows for rows in tables(text) if "Gemma, chrF" in rows[0])
    head, *rows = told
    for base, folder in BASES.items():
        with (REAL / folder / "per_task.csv").open(encoding="utf-8", newline="") as file:
            found = {row["method"]: row for row in csv.DictReader(file)}
        for row in rows:
            for title, metric in (("ROUGE-L", "rougeL"), ("chrF", "chrf"), ("French", "language")):
                place = next(n for n, h in enumerate(head) if h.startswith(f"{base}, {title}"))
                known = found.get(row[0])
                digits = 0 if metric == "language" else 1
                wanted = f"{float(known[metric]):.{digits}f}" if known else "–"
                assert row[place] == wanted, (row[0], base, metric)


SERVE = Path(__file__).parents[1] / "docs" / "serve.md"


def test_the_page_on_serving_tells_the_true_limits() -> None:
    from onepass.serve.http.app import Limits
    from onepass.serve.http.requests import _UNSUPPORTED

    text, limits = SERVE.read_text(encoding="utf-8"), Limits()
    assert f"--max-body {limits.body // 2**20}M" in text
    assert f"--max-tokens {limits.tokens}" in text
    assert f"--queue {limits.waiting}" in text
    assert f"--time-limit {limits.seconds:g}" in text
    for field in ("n", "stop", "tools", "logprobs", "response_format", "best_of", "echo", "suffix"):
        assert field in _UNSUPPORTED
        assert f"`{field}`" in text
