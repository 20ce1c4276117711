"""Commands that only read or list do not wait for libraries that they do not need."""

import subprocess
import sys
from pathlib import Path

import pytest

from judge_kit import write_runs

HEAVY = ("torch", "transformers", "peft", "nltk", "scipy", "sacrebleu", "py3langid")
CODE = """
import sys
from onepass.cli.app import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("imported:", *(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


def imported(*args: str) -> set[str]:
    """Those of `HEAVY` that a command imports."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(heavy=HEAVY), *args],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stderr.splitlines()[-1].removeprefix("imported:").split())


@pytest.mark.parametrize("args", [("--help",), ("ls", "tasks"), ("ls", "metrics")])
def test_listing_imports_nothing_heavy(args: tuple[str, ...]) -> None:
    assert imported(*args) == set()


@pytest.mark.parametrize("args", [("ls", "methods"), ("ls", "merges")])
def test_listing_methods_imports_torch_at_most(args: tuple[str, ...]) -> None:
    assert imported(*args) <= {"torch"}


def test_a_report_imports_what_it_computes_with_at_most(tmp_path: Path) -> None:
    folder = write_runs(tmp_path / "runs")
    assert imported("report", str(folder)) <= {"torch", "scipy"}
