"""Files that are whole or absent: written to a temporary name, synced, renamed.

Also the one reader of JSON and JSON lines, whose errors name the file, the line and the field.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from onepass.core.errors import OnepassError


def _umask() -> int:
    with suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)  # elsewhere it is told only to who sets it
    os.umask(mask)
    return mask


# Asked once, while there are no other threads: these would create files by the mask set meanwhile.
_UMASK = _umask()


def _mode(target: Path, usual: int) -> int:
    """The permissions of what becomes `target`, for temporary ones are private: those that it has,
    or else the `usual` less the umask.
    """
    return target.stat().st_mode & 0o777 if target.exists() else usual & ~_UMASK


def _sync(path: Path) -> None:
    folder = path.is_dir()
    if folder and not hasattr(os, "O_DIRECTORY"):
        return  # Windows opens no folder, and syncs no file that is open for reading alone
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_stream(path: Path) -> bool:
    """Whether a device, a pipe or a socket stands there: it takes what is written, and stays.

    `OSError` where a link goes round in a circle, or the folder may not be looked into.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def open_file(path: Path) -> int | None:
    """The number of the open file of this process that `path` names, as /dev/stdout names 1."""
    folders = {os.path.realpath(place) for place in ("/dev/fd", "/proc/self/fd")}
    for _ in range(40):  # as many links as Linux follows
        if path.name.isdecimal() and path.exists() and os.path.realpath(path.parent) in folders:
            return int(path.name)
        if not path.is_symlink():
            break
        path = path.parent / path.readlink()
    return None


def linked(path: Path) -> Path:
    """Where the link `path` leads, or else `path`: a name that may be replaced, unlike a link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and takes the name `path`.

    On any failure the temporary file goes and what stood at `path` stays as it was. What replaces a
    file keeps its permissions. Of a link it is the file it leads to that is replaced. A device or a
    pipe, which no file may replace, is yielded itself. What this process has open under a name
    such as /dev/stdout gets it all at the end, after what was written there before. An `OSError`
    (no permission, disk full) becomes an `OnepassError` naming `path`.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        number = open_file(path)
        if number is not None:
            with _sent(number) as whole:
                yield whole
            return
        if is_stream(path):
            yield path
            return
        target = linked(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _sync(temporary)
        temporary.chmod(_mode(target, 0o666))
        temporary.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise OnepassError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            with suppress(FileNotFoundError):
                temporary.unlink()


@contextmanager
def _sent(number: int) -> Iterator[Path]:
    """Yield a temporary path; on success what is written there goes to the open file `number`.

    To open that by its name would empty a regular file, and a socket cannot be.
    """
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "out")
        yield temporary
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # what was printed comes first
        with temporary.open("rb") as whole, open(os.dup(number), "wb") as output:
            shutil.copyfileobj(whole, output)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it replaces the folder `path`.

    On any failure the temporary folder goes and what stood at `path` stays as it was. What replaces
    a folder keeps its permissions. Of a link it is the folder it leads to that is replaced.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        target = linked(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        yield temporary
        for part in sorted(temporary.rglob("*")):
            if part.is_file():  # safetensors makes private ones
                part.chmod(part.stat().st_mode | 0o666 & ~_UMASK)
            _sync(part)
        temporary.chmod(_mode(target, 0o777))
        if target.exists():
            _exchange(target, temporary)
        else:
            temporary.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise OnepassError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _exchange(target: Path, new: Path) -> None:
    """Put `new` in the place of the folder `target`, which comes back if that is interrupted."""
    away = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    old = away / target.name
    try:
        target.replace(old)
        new.replace(target)
    except BaseException:
        if not target.exists():
            try:
                old.replace(target)
            except OSError as error:
                raise OnepassError(
                    f"cannot put {target} back ({error.strerror or error}): it is now {old}"
                ) from error
        shutil.rmtree(away, ignore_errors=True)
        raise
    shutil.rmtree(away)


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8, with question marks for what it cannot hold, as in odd names of files."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def write_json(path: Path | str, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True) + "\n")


def read_text(path: Path | str) -> str:
    """The text of a UTF-8 file; an `OnepassError` when it is missing or is not UTF-8."""
    path = Path(path)
    try:
        return path.read_text(encoding="utf-8-sig")  # with or without a byte-order mark
    except UnicodeDecodeError as error:
        raise OnepassError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}); convert it to UTF-8"
        ) from error
    except OSError as error:
        raise OnepassError(f"cannot read {path}: {error.strerror or error}") from error


def inside(manifest: Path, place: str) -> Path:
    """The path of an entry of a manifest, relative to the folder that this is in.

    Refused where it, or a link on its way, leaves that folder.
    """
    try:
        path = (manifest.parent / place).resolve()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # a name that the system does not take shows here at the latest
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OnepassError(f"{manifest}: {place[:60]!r} is no path to a file ({reason})") from error
    if not path.is_relative_to(manifest.parent.resolve()):
        raise OnepassError(
            f"{manifest}: {place!r} points outside its folder; it may only name files of its own"
        )
    return path


def sha256(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise OnepassError(f"cannot read {path}: {error.strerror or error}") from error


def read_json(path: Path | str) -> Any:
    """The value in a JSON file; an `OnepassError` naming the line or the field that is wrong."""
    return _parsed(read_text(path), path)


def read_jsonl(path: Path | str) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a JSON-lines file and their line numbers (from 1), blank lines skipped."""
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = _parsed(line, path, number)
        if not isinstance(row, dict):
            raise OnepassError(f"{path}, line {number}: expected an object, found {line[:40]!r}")
        rows.append((number, row))
    if not rows:
        raise OnepassError(f"{path} holds no examples; expected one JSON object per line")
    return rows


_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def _parsed(text: str, path: Path | str, line: int | None = None) -> Any:
    """The JSON value that is all of `text`, the file's or a line's."""
    where = f"{path}, line {line}" if line else f"{path}"
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}, line {line or error.lineno}"
        raise OnepassError(f"{where}: not JSON ({error.msg})") from error
    except ValueError as error:  # a number of thousands of digits
        raise OnepassError(f"{where}: not JSON ({error})") from error
    except RecursionError as error:
        raise OnepassError(f"{where}: not JSON that can be read (nested too deep)") from error
    if _HALF.search(text):
        _check_whole(value, where)
    return value


def _check_whole(value: Any, where: str) -> None:
    """Refuse a text with half of a surrogate pair, which no file, terminal or tokenizer takes."""
    todo = [("", value)]
    while todo:
        field, value = todo.pop()
        if isinstance(value, dict):
            todo += [(f"{field}.{key!a}", key) for key in value]
            todo += [(f"{field}.{key}", each) for key, each in value.items()]
        elif isinstance(value, list):
            todo += [(f"{field}.{place}", each) for place, each in enumerate(value)]
        elif isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise OnepassError(
                    f'{where}: "{field[1:]}" has half a character: {error.reason}; write it whole'
                ) from error


def to_jsonl(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_jsonl(path: Path | str, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, to_jsonl(rows))
