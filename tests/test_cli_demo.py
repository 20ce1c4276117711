"""`onepass demo`, on a micro base with random adapters: everything but good Spanish."""

import multiprocessing
from pathlib import Path

import pytest

from cli_kit import onepass, save_adapters
from conftest import MakeAdapter
from onepass.adapters.composition import load_composition
from onepass.api import demo
from onepass.cli.demo import show


def test_the_demo_compares_shows_and_leaves_compositions_to_run(
    tmp_path: Path,
    base_folder: Path,
    make_adapter: MakeAdapter,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    summarize, spanish = save_adapters(tmp_path, make_adapter)
    ingredients = demo.Ingredients(
        model=str(base_folder),
        adapters={"summarize": summarize, "translate:es": spanish},
        examples=6,
        validation=2,
        options={"max_steps": 2, "batch_size": 2},
    )
    out = Path("out")
    show(demo.compare(ingredients, out, 4, max_new_tokens=24), out)
    shown = capsys.readouterr().out
    table = {line.split("\t")[0]: line.split("\t")[1:] for line in shown.splitlines()}
    for method in demo.COMPARED:
        *scores, spread, passes, extra = table[method]
        assert len(scores) == 4
        assert " to " in spread
        assert passes == ("2" if method == "multi-step" else "1")
        assert (extra != "0") == (method in ("lc", "lc++"))
    assert shown.count("Conversation ") == 3
    # What it says can be run is run: the last line, but for the micro base that is elsewhere.
    command = shown.splitlines()[-1].split()
    assert command[:2] == ["onepass", "generate"]
    done = onepass(capsys, *command[1:], "--model", base_folder, "--max-new-tokens", 8)
    done.succeeded()
    assert {load_composition(Path("out", name)).method for name in ("lc", "lc++")} == {"lc", "lc++"}


def test_what_fails_in_the_second_process_is_told_to_the_first(
    tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *args: None)  # that process is this one here
    ingredients = demo.Ingredients(str(base_folder), {}, 2, 1, {})
    here, there = multiprocessing.Pipe(duplex=False)
    demo._work(there, ingredients, "lc", tmp_path / "lc")
    assert "needs an adapter for 'summarize'" in here.recv()
    assert not (tmp_path / "lc").exists()


def test_the_demo_without_its_adapters_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "embedded_adapter", lambda part: tmp_path / part)
    done = onepass(capsys, "demo", "--out", tmp_path / "out", "--examples", 1, "--test", 1)
    done.refused(str(tmp_path / "summarize"), "not a folder")
