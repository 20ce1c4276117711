"""Files that are whole or absent, wherever a path leads; JSON that is none."""

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli_kit import listing
from onepass.api.outputs import check_writable
from onepass.core.errors import OnepassError
from onepass.core.files import (
    atomic_file,
    atomic_folder,
    inside,
    read_json,
    read_jsonl,
    write_json,
    write_text,
)


def folder_with(path: Path, text: str) -> None:
    """Write a folder of one file, whole or not at all."""
    with atomic_folder(path) as temporary:
        (temporary / "file").write_text(text)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def reading(path: Path) -> Callable[[], str]:
    """Read `path` meanwhile; called, the function that is returned says what it held."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(path.read_text()), daemon=True)
    thread.start()

    def join() -> str:
        thread.join(10)
        return found[0]

    return join


def test_a_pipe_takes_what_is_written_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe, folder=False)  # which nobody reads yet
    read = reading(pipe)
    write_text(pipe, "the answer\n")
    assert read() == "the answer\n"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]


def test_the_name_of_an_open_pipe_as_shells_give_it(tmp_path: Path) -> None:
    read, write = os.pipe()
    path = Path(f"/dev/fd/{write}")
    if not path.exists():
        pytest.skip("this system names no open files")
    check_writable(path, folder=False)
    write_text(path, "the answer\n")
    os.close(write)
    with open(read) as file:
        assert file.read() == "the answer\n"


@pytest.fixture(params=["/dev/fd", "/proc/self/fd", "/proc/PID/fd", "link"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A file with a line in it, as `>> log` opens it, and the name of what is open."""
    file = tmp_path / "log"
    file.write_text("old\n")
    with file.open("a") as opened:
        folder = request.param.replace("PID", str(os.getpid())).replace("link", "/dev/fd")
        place = Path(folder, str(opened.fileno()))
        if not place.exists():
            pytest.skip("this system names no open files so")
        if request.param == "link":
            (tmp_path / "second").symlink_to(place)
            (tmp_path / "link").symlink_to("second")
            place = tmp_path / "link"
        yield file, place


def test_what_is_open_for_appending_is_appended_to(log: tuple[Path, Path]) -> None:
    file, place = log
    before = file.stat().st_ino
    for answer in ("one\n", "two\n"):
        check_writable(place, folder=False)
        write_text(place, answer)
    assert file.read_text() == "old\none\ntwo\n"
    assert file.stat().st_ino == before
    assert {path.name for path in file.parent.iterdir()} <= {"log", "link", "second"}


def test_a_failure_sends_nothing_to_an_open_file(log: tuple[Path, Path]) -> None:
    file, place = log

    def fail_halfway() -> None:
        with atomic_file(place) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OnepassError, match=f"cannot write {place}: disk full"):
        fail_halfway()
    assert file.read_text() == "old\n"


def test_what_is_open_for_reading_or_not_at_all_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with file.open() as opened:
        place = Path("/dev/fd", str(opened.fileno()))
        if not place.exists():
            pytest.skip("this system names no open files")
        with pytest.raises(OnepassError, match=f"cannot write {place}: Bad file descriptor"):
            check_writable(place, folder=False)
        with pytest.raises(OnepassError, match=f"cannot write {place}: Bad file descriptor"):
            write_text(place, "x")
    for closed in (place, Path("/dev/fd", "9" * 30)):
        with pytest.raises(OnepassError, match=f"cannot write {closed}: No such file"):
            check_writable(closed, folder=False)
        with pytest.raises(OnepassError, match=f"cannot write {closed}: No such file"):
            write_text(closed, "x")
    assert file.read_text() == "old"


def test_a_device_takes_what_is_written_and_stays(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # a null device of our own
        device.write_text("")
    except OSError as error:
        pytest.skip(f"no device may be made here: {error}")
    check_writable(device, folder=False)
    write_text(device, "the answer\n")
    assert stat.S_ISCHR(device.stat().st_mode)


def test_a_reader_that_has_gone_is_told(tmp_path: Path) -> None:
    read, write = os.pipe()
    path = Path(f"/dev/fd/{write}")
    if not path.exists():
        pytest.skip("this system names no open files")

    def write_too_late() -> None:
        with atomic_file(path) as temporary, temporary.open("w") as file:
            os.close(read)
            file.write("the answer\n")

    with open(write, "w"), pytest.raises(OnepassError, match=f"cannot write {path}: Broken pipe"):
        write_too_late()


def test_of_a_link_it_is_the_file_that_is_replaced(tmp_path: Path) -> None:
    far = tmp_path / "far"
    far.mkdir()
    (far / "file").write_text("old")
    (tmp_path / "link").symlink_to("far/file")
    (tmp_path / "second").symlink_to(tmp_path / "link")
    (tmp_path / "dangling").symlink_to("new/file")
    for name, place in (("link", "far/file"), ("second", "far/file"), ("dangling", "new/file")):
        check_writable(tmp_path / name, folder=False)
        write_text(tmp_path / name, name)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / place).read_text() == name
        assert not (tmp_path / place).is_symlink()


def test_a_failure_leaves_the_file_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")

    def fail_halfway() -> None:
        with atomic_file(tmp_path / "link") as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OnepassError, match="link"):
        fail_halfway()
    assert listing(tmp_path) == {"file": b"old", "link": b"old"}


def test_a_link_that_leads_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OnepassError, match=r"cannot write .*a: Too many levels"):
        check_writable(tmp_path / "a", folder=False)
    with pytest.raises(OnepassError, match=r"cannot write .*a: Too many levels"):
        write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").is_symlink()


def test_of_a_link_it_is_the_folder_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "old").write_text("")
    (tmp_path / "link").symlink_to("far")
    check_writable(tmp_path / "link")
    with atomic_folder(tmp_path / "link") as temporary:
        (temporary / "new").write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert listing(tmp_path / "far") == {"new": b"x"}
    assert {path.name for path in tmp_path.iterdir()} == {"far", "link"}


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("adapters/\0", "null"),
        ("adapters/\ud800", "surrogates"),
        ("adapters/" + "a" * 5000, "too long"),
        ("adapters/" * 1000, "too long"),
        ("circle/a", "loop|levels"),
    ],
)
def test_a_path_that_is_none(place: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(OnepassError, match=f"(?i)manifest.json: .* no path .*({reason})") as told:
        inside(tmp_path / "manifest.json", place)
    assert len(str(told.value)) < 400


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("[" * 100_000, "nested too deep", id="lists"),
        pytest.param('{"a":' * 100_000, "nested too deep", id="objects"),
        pytest.param("1" * 5000, "not JSON .*digits", id="digits"),
        pytest.param(r'{"a": [1, {"b": "x\ud800"}]}', r'"a.1.b" has half a character', id="half"),
        pytest.param(r'{"a": {"\udc00": 1}}', r'"a.\S+udc00.*" has half a character', id="key"),
        pytest.param(r'{"a": "\ude00\ud83d"}', '"a" has half a character', id="swapped"),
    ],
)
def test_json_that_nothing_can_be_done_with(text: str, reason: str, tmp_path: Path) -> None:
    read: list[Callable[[Path], Any]] = [read_json, read_jsonl]
    path = tmp_path / "a.json"
    for reader, content, where in zip(read, (text, "{}\n" + text), ("", ", line 2"), strict=True):
        path.write_text(content)
        with pytest.raises(OnepassError, match=rf"a\.json{where}: .*{reason}"):
            reader(path)


def test_whole_characters_are_read_however_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(r'{"a": "\ud83d\ude00", "b": "\\ud800"}')
    assert read_json(path) == {"a": "\U0001f600", "b": r"\ud800"}


def test_an_odd_name_of_a_file_is_written_with_question_marks(tmp_path: Path) -> None:
    write_json(tmp_path / "card.json", {"data": os.fsdecode(b"caf\xe9.jsonl")})
    assert read_json(tmp_path / "card.json") == {"data": "caf?.jsonl"}


def test_a_system_that_opens_no_folder_and_syncs_no_file_that_is_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    synced = []

    def sync(handle: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced.append(handle)

    monkeypatch.delattr(os, "O_DIRECTORY")
    monkeypatch.setattr(os, "fsync", sync)
    write_text(tmp_path / "file", "x")
    folder_with(tmp_path / "folder", "y")
    assert listing(tmp_path) == {"file": b"x", "folder/file": b"y"}
    assert len(synced) == 2


@pytest.mark.parametrize("told", [True, False])
def test_new_files_are_as_private_as_the_process_was_started_to_make_them(
    told: bool, tmp_path: Path
) -> None:
    hide = "" if told else "import builtins; builtins.open = lambda *_: os.open('none', 0);"
    write = "from onepass.core.files import write_text; os.umask = None; write_text('a', 'x')"
    for mask in (0o002, 0o077):
        script = f"import os; os.umask({mask}); {hide} {write}"
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=60)
        assert mode_of(tmp_path / "a") == 0o666 & ~mask
        (tmp_path / "a").unlink()


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o777])
def test_what_replaces_a_file_or_a_folder_is_as_private(mode: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "folder"):
        (tmp_path / name).chmod(mode)
    write_text(tmp_path / "file", "new")
    folder_with(tmp_path / "folder", "new")
    assert {mode_of(tmp_path / name) for name in ("file", "folder")} == {mode}
    write_text(tmp_path / "link", "newer")
    assert mode_of(tmp_path / "file") == mode
    assert listing(tmp_path) == {"file": b"newer", "link": b"newer", "folder/file": b"new"}


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
@pytest.mark.parametrize(("step", "done"), [(1, False), (1, True), (2, False), (2, True)])
def test_a_folder_is_the_old_one_or_the_new_one_whichever_renaming_stops(
    failure: BaseException, step: int, done: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renaming fails or is interrupted; done: it is interrupted just after."""
    folder_with(tmp_path / "set", "old")
    calls = []
    rename = Path.replace

    def stop(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) != step:
            return rename(path, target)
        if done:
            rename(path, target)
        raise failure

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(
        (OnepassError, KeyboardInterrupt), match=r"cannot write .*set: I/O error|^$"
    ):
        folder_with(tmp_path / "set", "new")
    assert listing(tmp_path) == {"set/file": b"new" if (step, done) == (2, True) else b"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_that_cannot_be_put_back_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_with(tmp_path / "set", "old")
    rename = Path.replace

    def stop(path: Path, target: Path) -> Path:
        if target == tmp_path / "set":
            raise OSError(errno.EIO, "I/O error")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(OnepassError, match=r"cannot put .*set back .*I/O error.* now ") as told:
        folder_with(tmp_path / "set", "new")
    kept = Path(str(told.value).rpartition(" now ")[2])
    assert listing(tmp_path) == {str(kept.relative_to(tmp_path) / "file"): b"old"}
