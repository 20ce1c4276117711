"""Methods from a user's own file: the one of CONTRIBUTING.md as it stands, and broken ones."""

import csv
import io
import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from bench_kit import TASKS, write_recipe
from cli_kit import onepass
from onepass.adapters.merging import MERGES
from onepass.core.errors import OnepassError
from onepass.evaluate.metrics import METRICS
from onepass.methods import METHODS, plugins

GUIDE = Path(__file__).parent.parent / "CONTRIBUTING.md"
(HALVES,) = re.findall(r"```python\n(.*?Half main.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is forgotten after it."""
    for registry in (METHODS, MERGES, METRICS):
        monkeypatch.setattr(registry, "_things", dict(registry._things))
    monkeypatch.setenv(plugins.PLUGINS, "")
    yield
    for name in [name for name in sys.modules if name.startswith("onepass_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    path = tmp_path / "halves.py"
    path.write_text(HALVES, encoding="utf-8")
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_the_method_of_the_guide_runs_from_its_own_file(
    halves: Path,
    tmp_path: Path,
    base_folder: Path,
    make_adapter: Any,
    capsys: pytest.CaptureFixture[str],
    workers: int,
) -> None:
    recipe = write_recipe(
        tmp_path / "mine", base_folder, make_adapter, tasks=[TASKS[0]], methods=["linear", "halves"]
    )
    out = tmp_path / "runs"
    onepass(capsys, "bench", recipe, "--out", out).refused("unknown method 'halves'")
    given = ("--plugin", halves)
    listed = onepass(capsys, "ls", "methods", *given).succeeded()
    assert "halves\tHalf main, whole auxiliary" in listed.out
    onepass(capsys, "bench", recipe, "--out", out, "--workers", workers, *given).succeeded()
    report = onepass(capsys, "report", out, "--format", "csv", *given).succeeded()
    rows = list(csv.DictReader(io.StringIO(report.out)))
    assert {row["method"] for row in rows} == {"linear", "halves"}
    halves.write_text(HALVES.replace("0.5", "0.25"), encoding="utf-8")
    del sys.modules["onepass_plugin_halves"], METHODS._things["halves"]
    edited = onepass(capsys, "report", out, *given).succeeded()
    assert "--redo halves" in " ".join(edited.out.split())


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("1 / 0", "fails: ZeroDivisionError: division by zero (line 1)"),
        ("def f(:", "fails: SyntaxError"),
        ("x = 1", "registers no method, merge or metric"),
        (HALVES.replace('"halves"', '"lc++"'), "method 'lc++' is registered twice (line 7)"),
    ],
)
def test_a_file_that_is_no_plugin_says_why(
    text: str, wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    onepass(capsys, "ls", "methods", "--plugin", path).refused("mine.py", wrong)
    assert "onepass_plugin_mine" not in sys.modules


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onepass(capsys, "ls", "methods", "--plugin", tmp_path / "no.py").refused("is no Python file")


def test_a_method_must_give_a_composition(
    tmp_path: Path, base_folder: Path, make_adapter: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HALVES.replace("return setting.compose(pass_)", "return pass_"), "utf-8")
    recipe = write_recipe(
        tmp_path / "mine", base_folder, make_adapter, tasks=[TASKS[0]], methods=["halves", "linear"]
    )
    out = tmp_path / "runs"
    done = onepass(capsys, "bench", recipe, "--out", out, "--workers", 0, "--plugin", path)
    assert done.code == 1
    assert "method halves gave Pass" in done.err
    assert "Traceback" not in done.err
    assert (out / "linear").is_dir()  # the others went on


def test_an_installed_package_offers_its_methods(
    halves: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(halves.parent)
    point = EntryPoint("mine", "halves", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point])
    plugins.load_plugins()
    assert METHODS.get("halves").title == "Half main, whole auxiliary"
    del sys.modules["halves"]


def test_a_plugin_is_loaded_once(halves: Path, tmp_path: Path) -> None:
    plugins.use_plugin(halves)
    plugins.use_plugin(halves)
    other = tmp_path / "other" / "halves.py"
    other.parent.mkdir()
    other.write_text(HALVES.replace('"halves"', '"quarters"'), encoding="utf-8")
    with pytest.raises(OnepassError, match=r"two plugins are called halves\.py"):
        plugins.use_plugin(other)
