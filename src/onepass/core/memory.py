"""The most of the machine's memory that a process has held."""

import sys
from contextlib import suppress
from pathlib import Path


def peak_memory(pid: int | None = None) -> int | None:
    """The most bytes that this process, or that of a `pid`, has held; None if unknown.

    Linux knows both, since the program started or `forget_peak_memory` was last called; macOS knows
    this process alone, since it started; Windows knows neither.
    """
    if sys.platform == "linux":
        # Not getrusage: it counts in what the parent held, and what was to be forgotten.
        with suppress(OSError):
            status = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="utf-8")
            for line in status.splitlines():  # one that has ended has no such line
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    elif sys.platform == "darwin" and pid is None:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def forget_peak_memory() -> None:
    """Let `peak_memory` of this process count from now on; only on Linux."""
    with suppress(OSError):  # proc(5): 5 resets the peak resident set size
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
