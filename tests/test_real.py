"""The whole way on pretrained weights: small enough for every run of the tests.

Skipped where the weights cannot be downloaded. The text is real where the data are beside the
project, else that of the embedded world.
"""

import subprocess
import sys
from pathlib import Path

import pytest

import onepass as op
from onepass.adapters.history import HISTORY, History
from onepass.comparison.report import report_markdown
from onepass.comparison.runs import load_runs
from onepass.core.files import read_json

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "build" / "real"
DATA = ROOT.parent / "shared" / "data"
LINES = ["linear", "multi-step", "lc", "lc++"]


@pytest.fixture(scope="module")
def smollm2() -> Path:
    fetched = subprocess.run(
        [sys.executable, ROOT / "scripts" / "weights.py", WEIGHTS, "smollm2"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if fetched.returncode:
        pytest.skip(f"no pretrained weights: {fetched.stderr.strip()}")
    return WEIGHTS / "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_two_adapters_are_composed_on_a_pretrained_base(smollm2: Path, tmp_path: Path) -> None:
    recipe, folder = ROOT / "recipes" / "real" / "small.yaml", tmp_path / "runs"
    changes = [] if DATA.is_dir() else ["corpus=smalltown", "train.corpus=smalltown"]
    report = op.bench(recipe, folder, workers=0, changes=changes)
    assert [row[0] for row in report.comparison.rows] == LINES
    assert "the harbour" in report_markdown(report)
    _, runs = load_runs(folder)
    by_method = {run.method: run for run in runs}
    assert by_method["multi-step"].cost.passes == 2
    lcpp = by_method["lc++"]
    assert lcpp.cost.adapter_parameters is not None
    assert lcpp.cost.extra_parameters < lcpp.cost.adapter_parameters
    # What calibrating is for: the loss on held-out examples is below that of the bare merge.
    history = History(**read_json(folder / lcpp.cell.place / HISTORY))
    assert history.best_loss is not None
    assert history.best_loss < 0.9 * history.losses[0]

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")}
    op.bench(recipe, folder, workers=0, changes=changes)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")}
