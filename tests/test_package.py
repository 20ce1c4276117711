"""The package as a whole: its command, its layers, its requirements, what a wheel of it holds."""

import importlib
import importlib.metadata
import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import onepass
from onepass.cli import app, data
from onepass.cli.app import COMMANDS, load_command
from onepass.core.errors import OnepassError

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SLOW_TO_IMPORT = {
    "matplotlib", "numpy", "openai", "peft", "pydantic", "sacrebleu", "scipy", "starlette", "torch",
    "transformers", "uvicorn",
}  # fmt: skip


def onepass_command(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onepass", *args], capture_output=True, text=True, timeout=60
    )


def exit_status(*args: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        app.main(list(args))
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_help_lists_every_command_and_imports_nothing_slow() -> None:
    script = """
import json, sys
from onepass.cli.app import main
try:
    main(["--help"])
except SystemExit as stopped:
    print(json.dumps([stopped.code, sorted(sys.modules)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    *shown, last = done.stdout.splitlines()
    code, modules = json.loads(last)
    assert code == 0
    assert SLOW_TO_IMPORT.isdisjoint(modules)
    for entry in app.COMMANDS:
        assert any(entry.name in line and entry.summary[:20] in line for line in shown)
        assert f"onepass.cli.{entry.name}" not in modules


COMMAND_NAMES = [
    *(entry.name for entry in app.COMMANDS),
    *(f"data-{entry.name}" for entry in data.SUBCOMMANDS),
]


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_every_listed_command_loads(name: str) -> None:
    assert app.load_command(name).help


def test_every_command_module_is_listed() -> None:
    listed = {name.replace("-", "_") for name in COMMAND_NAMES}
    for path in (ROOT / "src/onepass/cli").glob("[!_]*.py"):
        module = importlib.import_module(f"onepass.cli.{path.stem}")
        if callable(getattr(module, path.stem, None)):
            assert path.stem in listed, f"{path.name} is not in COMMANDS of app.py"


def test_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("onepass") == onepass.__version__
    assert onepass_command("--version").stdout == f"onepass {onepass.__version__}\n"


def test_an_unknown_command_suggests_a_near_one() -> None:
    done = onepass_command("demmo")
    assert done.returncode == 2
    assert "demo" in done.stderr


def listing_that_raises(error: BaseException) -> Any:
    def ls() -> None:
        """A stand-in for a command."""
        raise error

    single = typer.Typer(add_completion=False)
    single.command("ls")(ls)
    return lambda name: typer.main.get_command(single)


def test_a_users_error_is_told_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/a/long/path/" + "x" * 100 + "/[bold]notes[/bold].jsonl"
    error = OnepassError(f"cannot read {path}: no such file")
    monkeypatch.setattr(app, "load_command", listing_that_raises(error))
    assert exit_status("ls") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: cannot read {path}: no such file\n"


@pytest.mark.parametrize("kept", ["", "the state is in runs/x; the same command goes on from it"])
def test_ctrl_c_is_told_without_traceback(
    kept: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(app, "load_command", listing_that_raises(KeyboardInterrupt(kept)))
    assert exit_status("ls") == 130
    assert capsys.readouterr().err == (f"interrupted: {kept}\n" if kept else "interrupted\n")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "load_command", listing_that_raises(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        app.main(["ls"])


def test_ls_in_a_pipe_is_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    from onepass.tasks.benchmark import COMPOSITIONAL_TASKS, SINGLE_TASKS

    assert exit_status("ls", "tasks") == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [name for name, *_ in rows] == [*SINGLE_TASKS, *COMPOSITIONAL_TASKS]


@pytest.mark.parametrize("kind", ["methods", "metrics"])
def test_ls_shows_a_register(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("ls", kind) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(rows) > 5
    assert all(name and title for name, title in rows)


def test_layers_are_those_of_the_design() -> None:
    layers, *forbidden = PROJECT["tool"]["importlinter"]["contracts"]
    plain = [layer.replace("(", "").replace(")", "") for layer in layers["layers"]]
    assert plain == [
        "cli | playground",
        "api",
        "comparison | prepare",
        "serve",
        "export",
        "methods | smalltown",
        "model | evaluate",
        "adapters",
        "tasks",
        "core",
    ]
    assert layers["exhaustive"]
    barred = {(c["source_modules"][0], m) for c in forbidden for m in c["forbidden_modules"]}
    assert barred >= {
        ("onepass.adapters", "transformers"), ("onepass.adapters", "peft"),
        ("onepass.adapters", "onepass.tasks"), ("onepass.tasks", "torch"),
    }  # fmt: skip


def test_the_lock_pins_every_requirement() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    versions: dict[str, str] = {}
    for pin in pins:
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        versions[canonicalize_name(pin.name)] = specifier.version
    assert versions["torch"] == "2.13.0"
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def test_a_wheel_holds_every_data_file(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
    source = ROOT / "src"
    expected = [
        path
        for path in (source / "onepass").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    ]
    assert any(path.suffix == ".yaml" for path in expected)
    for path in expected:
        assert sizes.get(path.relative_to(source).as_posix()) == path.stat().st_size, path
    metadata = f"onepass-{onepass.__version__}.dist-info"
    assert f"{metadata}/licenses/LICENSE" in sizes
    assert f"{metadata}/entry_points.txt" in sizes


@pytest.mark.parametrize("name", [entry.name for entry in COMMANDS])
def test_help_fits_a_terminal_of_80_columns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No example is broken by the terminal."""
    command = load_command(name)
    for each in (command, *getattr(command, "commands", {}).values()):
        for line in (each.help or "").splitlines():
            if line.lstrip().startswith(("onepass ", "--")):
                assert len(line) <= 76, line
