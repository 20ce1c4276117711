"""Where commands write: checked before the work, resumable while it lasts."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.core.files import is_stream, linked


def check_writable(out: Path, folder: bool = True) -> None:
    """Refuse an output (folder or file) that cannot be written, now rather than after hours."""
    try:
        if is_stream(out) and not folder:
            return
        if out.exists() and out.is_dir() != folder:
            what = "file" if folder else "folder"
            raise OnepassError(f"cannot write {out}: a {what} of that name exists; choose another")
        parent = linked(out).parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise OnepassError(f"cannot write {out}: {error.strerror or error}") from error


@contextmanager
def resumable(out: Path) -> Iterator[Path]:
    """Yield `out`.state, the folder for the state of the training that makes `out`.

    It is removed when the block succeeds, so save `out` inside the block. Ctrl-C prints its path.
    """
    state = out.with_name(f"{out.name}.state")
    try:
        yield state
    except KeyboardInterrupt as interrupt:
        if state.exists():
            raise KeyboardInterrupt(
                f"the state is in {state}; the same command goes on from there"
            ) from interrupt
        raise
    shutil.rmtree(state, ignore_errors=True)
