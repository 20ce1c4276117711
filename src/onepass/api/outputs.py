"""Where commands write: checked before the work, resumable while it lasts."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.core.files import is_stream, linked, open_file


def check_writable(out: Path, folder: bool = True) -> None:
    """Refuse an output (folder or file) that cannot be written, now rather than after hours."""
    try:
        if out.exists() and out.is_dir() != folder:
            what = "file" if folder else "folder"
            raise OnepassError(f"cannot write {out}: a {what} of that name exists; choose another")
        number = open_file(out)
        if number is not None and not folder:
            os.write(number, b"")  # refused where it is closed, or open for reading alone
            return
        if is_stream(out):  # opening one may wait for its reader, or be seen by it
            if not os.access(out, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        parent = linked(out).parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise OnepassError(f"cannot write {out}: {error.strerror or error}") from error


@contextmanager
def resumable(out: Path) -> Iterator[Path]:
    """Yield the folder for the state of the training that makes `out`: `out`.state, beside it.

    It goes when the block succeeds, so save `out` inside the block. Ctrl-C says where it is.
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
