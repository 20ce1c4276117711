"""Writing a benchmark's figures with what they were measured on."""

import json
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any


def write_figures(
    path: Path, setting: dict[str, Any], packages: tuple[str, ...], **figures: Any
) -> None:
    """Write `figures` as JSON; `setting` gets the date, the processor and versions of packages."""
    from onepass.comparison.environment import environment
    from onepass.core.files import write_text

    about = {
        "date": date.today().isoformat(), "processor": environment("cpu")["processor"], **setting,
        **{package: version(package) for package in packages},
    }  # fmt: skip
    write_text(path, json.dumps({"setting": about, **figures}, indent=1) + "\n")
