"""`onepass cost --paper`, and what the runs of a bench took."""

import csv
from pathlib import Path
from typing import Any

import pytest

from bench_kit import TASKS, write_recipe
from cli_kit import onepass
from onepass.comparison.runs import load_runs

PAPER = {  # arXiv 2507.16083, table 2: inferences, additional parameters, MB
    "multi-step": (2, "0", 0.00),
    "joint-expert": (1, "30M", 57.10),
    "lc": (1, "23K", 0.05),
    "lc++": (1, "166K", 0.32),
}
NAMES = {"learnable-calibration": "lc", "learnable-calibration++": "lc++"}


def rounded(count: int) -> str:
    """As the paper writes numbers."""
    for unit, size in (("M", 10**6), ("K", 10**3)):
        if count >= size:
            return f"{count / size:.0f}{unit}"
    return str(count)


def test_table_2_of_the_paper_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    done = onepass(capsys, "cost", "--paper").succeeded()
    header, *lines = (line.split("\t") for line in done.out.splitlines())
    assert header[:2] == ["method", "inferences"]
    assert [line[0] for line in lines] == list(PAPER)
    for name, passes, parameters, megabytes, share in lines:
        inferences, count, size = PAPER[name]
        assert int(passes) == inferences
        assert rounded(int(parameters.replace(",", ""))) == count
        assert float(megabytes) == pytest.approx(size, abs=0.05)
        assert (
            float(share) == {"multi-step": 0, "joint-expert": 100, "lc": 0.08, "lc++": 0.56}[name]
        )


def test_the_published_table_is_what_we_hold_it_to_be() -> None:
    path = Path(__file__).parents[2] / "shared" / "reference" / "table2.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    with path.open() as file:
        published = {
            NAMES.get(row["method"], row["method"]): (
                int(row["inferences"]), row["additional_parameters"],
                float(row["additional_storage_mb"]),
            )
            for row in csv.DictReader(file)
        }  # fmt: skip
    assert published == PAPER


def test_the_paper_table_is_that_of_any_model(
    base_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = onepass(capsys, "cost", base_folder, "--rank", 2).succeeded().out.splitlines()[1]
    table = (
        onepass(capsys, "cost", base_folder, "--rank", 2, "--paper").succeeded().out.splitlines()
    )
    *papers, core = shape.split("\t")[1:]
    assert [line.split("\t")[2] for line in table[2:]] == papers
    modules = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert int(core) == len(modules) * (2 + 2) ** 2


def test_runs_tell_their_seconds_tokens_and_memory(
    tmp_path: Path, base_folder: Path, make_adapter: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    recipe = write_recipe(
        tmp_path / "mine", base_folder, make_adapter, methods=["multi-step", "shared-lc"],
        options={"shared-lc": {"max_steps": 2, "batch_size": 4}},
    )  # fmt: skip
    onepass(capsys, "bench", recipe, "--out", out, "--workers", 0).succeeded()
    done = onepass(capsys, "cost", out).succeeded()
    header, *lines = (line.split("\t") for line in done.out.splitlines())
    rows = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    _, runs = load_runs(out)
    for method, row in rows.items():
        mine = [run for run in runs if run.method == method]
        tokens = sum(split.tokens for run in mine for split in run.splits.values())
        assert (row["cells"], row["outputs"]) == (str(len(TASKS)), "6")
        assert int(row["tokens"]) == round(tokens / len(TASKS))
        assert int(row["peak memory, MB"].replace(",", "")) > 100
    assert rows["multi-step"]["inferences"] == "2"
    assert rows["multi-step"]["additional parameters"] == "0"
    shared = next(run for run in runs if run.method == "shared-lc")
    # One training for both tasks, of which each bears half.
    assert float(rows["shared-lc"]["seconds to build"]) == pytest.approx(
        shared.seconds["build"] / 2, abs=0.06
    )


def test_a_folder_without_runs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    onepass(capsys, "cost", tmp_path).refused("no finished runs", "onepass bench")
