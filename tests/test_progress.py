"""Long work shows its progress in logs too, at sensible intervals."""

import os
import subprocess
import sys
from typing import Any

import pytest

from onepass.model import progress

SCRIPT = """
from onepass.model import progress
now = 0.0
progress.clock = lambda: now
with progress.progress_bar("summarize", {total}, {show}, {start}) as update:
    for step in range({start} + 1, {end} + 1):
        now += {seconds}
        update(step, f"loss {{1 / step:.3f}}")
"""


def lines(total: int, seconds: float, show: bool = True, start: int = 0, end: int = 0) -> list[str]:
    """What a process without a terminal prints on standard error, by a clock of its own."""
    script = SCRIPT.format(total=total, seconds=seconds, show=show, start=start, end=end or total)
    # FORCE_COLOR, as CI services set it, makes no terminal of a pipe.
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env={"FORCE_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_a_training_of_22_minutes_prints_a_line_a_minute() -> None:
    printed = lines(total=1320, seconds=1.0)
    assert printed[:4] == [
        "summarize: 1/1,320, loss 1.000, 0:00:01 elapsed, 0:21:59 left",
        "summarize: 10/1,320, loss 0.100, 0:00:10 elapsed, 0:21:50 left",
        "summarize: 30/1,320, loss 0.033, 0:00:30 elapsed, 0:21:30 left",
        "summarize: 60/1,320, loss 0.017, 0:01:00 elapsed, 0:21:00 left",
    ]
    assert len(printed) == 3 + 22
    assert printed[-1] == "summarize: 1,320/1,320, loss 0.001, 0:22:00 elapsed"


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        ({"total": 90, "seconds": 0.01}, []),  # too short to be worth a line
        ({"total": 90, "seconds": 1.0, "show": False}, []),
        (  # slow steps: a line each
            {"total": 2, "seconds": 400.0},
            [
                "summarize: 1/2, loss 1.000, 0:06:40 elapsed, 0:06:40 left",
                "summarize: 2/2, loss 0.500, 0:13:20 elapsed",
            ],
        ),
        (  # resumed at 96 of 100, stopped early at 98: the speed is that of the steps done now
            {"total": 100, "seconds": 4.0, "start": 96, "end": 98},
            [
                "summarize: 97/100, loss 0.010, 0:00:04 elapsed, 0:00:12 left",
                "summarize: 98/100, loss 0.010, 0:00:08 elapsed",
            ],
        ),
    ],
)
def test_lines_are_few_and_true(work: dict[str, Any], expected: list[str]) -> None:
    assert lines(**work) == expected


def test_what_is_told_to_a_listener_is_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now, told = 0.0, []
    monkeypatch.setattr(progress, "clock", lambda: now)
    with progress.telling(lambda *at: told.append(at)):
        for show in (True, False):
            with progress.progress_bar("summarize", 10, show) as update:
                for step in range(1, 11):
                    now += 0.4
                    update(step, f"loss {step}")
    # The first, then once a second at most.
    once = [(step, 10, f"loss {step}") for step in (1, 4, 7, 10)]
    assert told == once * 2
    assert capfd.readouterr() == ("", "")
