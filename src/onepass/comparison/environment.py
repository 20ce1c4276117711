"""What a run was made with: enough to explain a difference in speed or in the last digits."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from onepass import __version__
from onepass.core import memory

if TYPE_CHECKING:
    import torch

_PACKAGES = ("torch", "transformers", "peft", "tokenizers")


def environment(device: str) -> dict[str, str]:
    """Versions, processor, threads, date (UTC) and the commit of the code, where it has one."""
    return {**_lasting(), "device": device, "date": datetime.now(UTC).isoformat(timespec="seconds")}


def forget_peak_memory() -> None:
    """Let `peak_memory` count from now on; that of the machine only on Linux."""
    import torch

    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for number in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(number)
    memory.forget_peak_memory()


def peak_memory(device: "torch.device") -> int:
    """The most bytes this process has held: of the memory of GPUs, or else of the machine.

    0 where the system does not tell.
    """
    import torch

    if device.type == "cuda":
        return sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
    return memory.peak_memory() or 0


@cache
def _lasting() -> dict[str, str]:
    import torch

    found = {
        "onepass": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "commit": _commit(),
    }
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """The commit of the package's own files, "" if they are in no repository."""
    package = str(files("onepass"))
    git = ["git", "-C", package]
    try:
        # An installed package may lie in a repository that does not track it.
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", "__init__.py"], check=True, capture_output=True
        )
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()
