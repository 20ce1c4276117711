"""Real conversations take the same path as the embedded ones: train, calibrate, generate, score.

On a micro base with random weights, so what comes out is noise; that it runs, on text that nothing
here was made for, is the point. The conversations in tests/fixtures are self-made; those of the
public data sets are used where a checkout has them in ../shared/data.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli_kit import FAST, TASK, onepass, rows_of, save_adapters
from conftest import MakeAdapter
from onepass.adapters.adapter import Adapter
from onepass.adapters.composition import load_composition

Capture = pytest.CaptureFixture[str]
FIXTURES = Path(__file__).parent / "fixtures"
REAL = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def roomy_base(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro base with a context that holds real conversations."""
    folder = tmp_path_factory.mktemp("bases") / "micro"
    shutil.copytree(base_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    return folder


def present(name: str) -> Path:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"the real data set is not here: {path}")
    return path


def corpus(kind: str) -> tuple[str, str]:
    """A corpus and the task it has targets for."""
    if kind == "dialogsum fixture":
        return f"dialogsum:{FIXTURES / 'dialogsum'}", "summarize"
    if kind == "persona-chat fixture":
        return f"persona-chat:{FIXTURES / 'persona_chat.csv'}", "reply"
    if kind == "dialogsum":
        return f"dialogsum:{present('dialogsum') / 'dialogsum.dev.jsonl'}", "summarize"
    file = present("synthetic-persona-chat") / "Synthetic-Persona-Chat_valid.csv"
    return f"persona-chat:{file}", "reply"


KINDS = ["dialogsum fixture", "persona-chat fixture", "dialogsum", "persona-chat"]


@pytest.mark.parametrize("kind", KINDS)
def test_train_generate_and_score(
    kind: str, tmp_path: Path, roomy_base: Path, make_adapter: MakeAdapter, capsys: Capture
) -> None:
    name, task = corpus(kind)
    model = ("--model", roomy_base)
    done = onepass(
        capsys, "train", task, *model, "--corpus", name, "--out", tmp_path / "adapter",
        "--rank", 2, "--examples", 6, "--test", 1, *FAST,
    ).succeeded()  # fmt: skip
    assert {"R-L", "W-R"} & {line.split("\t")[0] for line in done.out.splitlines()}

    # A calibration of that task alone is a composition like any other.
    onepass(
        capsys, "calibrate", task, *model, "--adapters", tmp_path / "adapter", "--data", name,
        "--examples", 6, "--out", tmp_path / "composition", *FAST,
    ).succeeded()  # fmt: skip
    tests = tmp_path / "tests.jsonl"
    onepass(
        capsys,
        "data",
        "export",
        task,
        "--corpus",
        name,
        "--split",
        "test",
        "--limit",
        2,
        "--out",
        tests,
    ).succeeded()
    predictions = tmp_path / "predictions.jsonl"
    done = onepass(
        capsys, "generate", tmp_path / "composition", *model, "--input", tests,
        "--out", predictions, "--max-new-tokens", 6,
    ).succeeded()  # fmt: skip
    assert "tokens/s" in done.err
    expected = [row["id"] for row in rows_of(tests.read_text(encoding="utf-8"))]
    assert [r["id"] for r in rows_of(predictions.read_text(encoding="utf-8"))] == expected
    # By the corpus itself and by the exported file alike.
    common = ("score", predictions, "--task", task, "--metrics", "rouge1", "rougeL")
    by_corpus = onepass(capsys, *common, "--corpus", name).succeeded().out
    by_file = onepass(capsys, *common, "--corpus", tests, "--split", "all").succeeded().out
    assert by_corpus == by_file
    assert len(by_file.splitlines()) == 3


@pytest.mark.parametrize("kind", ["dialogsum fixture", "dialogsum"])
def test_calibrate_on_compositional_targets_from_a_file(
    kind: str, tmp_path: Path, roomy_base: Path, make_adapter: MakeAdapter, capsys: Capture
) -> None:
    name, task = corpus(kind)
    rows = onepass(
        capsys, "data", "export", task, "--corpus", name, "--split", "train", "--limit", 8
    ).succeeded().out  # fmt: skip
    data = tmp_path / "spanish.jsonl"
    lines = [{"input": r["input"], "target": f"En español: {r['target']}"} for r in rows_of(rows)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def on_roomy(*given: Any, **options: Any) -> Adapter:
        return replace(make_adapter(*given, **options), base=str(roomy_base))

    onepass(
        capsys, "calibrate", TASK, "--model", roomy_base, "--data", data,
        "--adapters", *save_adapters(tmp_path, on_roomy), "--out", tmp_path / "out", *FAST,
        "--validation", 1,
    ).succeeded()  # fmt: skip
    assert load_composition(tmp_path / "out").card["data"] == str(data)
