"""The peak of memory: of one process alone, and of what it holds from now on."""

import os
import subprocess
import sys

import pytest

from onepass.core.memory import forget_peak_memory, peak_memory

MUCH = 200 << 20
TELL = """
import sys
from onepass.core.memory import peak_memory
print(peak_memory(), flush=True)
sys.stdin.read()
"""


def test_what_was_held_counts_until_it_is_forgotten() -> None:
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("this system forgets no peak")
    forget_peak_memory()
    before = peak_memory()
    held = b"x" * MUCH
    del held
    full = peak_memory()
    forget_peak_memory()
    little = b"x" * (MUCH // 100)
    after = peak_memory()
    del little
    assert before is not None
    assert full is not None
    assert after is not None
    assert full - before > MUCH * 0.9
    assert full - after > MUCH * 0.9


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of other processes")
def test_a_process_is_told_from_the_one_that_started_it() -> None:
    held = b"x" * MUCH
    child = subprocess.Popen(
        [sys.executable, "-c", TELL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        of_itself = int(child.stdout.readline())
        from_outside = peak_memory(child.pid)
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert peak_memory(child.pid) is None
    assert peak_memory(child.pid) is None
    assert len(held) == MUCH
    assert 1 << 20 < of_itself < MUCH
    assert from_outside == pytest.approx(of_itself, rel=0.2)
