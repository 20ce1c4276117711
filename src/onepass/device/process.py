"""llama.cpp's server in a process of its own, spoken to over HTTP on this machine."""

import json
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from http.client import HTTPException
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from onepass.core import memory
from onepass.core.errors import OnepassError
from onepass.core.optional import optional
from onepass.device import child

_PATIENCE = 5.0  # seconds a process may take to end when it is asked to


class EngineProcess:
    """A running server with these `settings` (see `child._serve`); `close` it, or let it go.

    Raises:
        OnepassError: it did not start, with what llama.cpp said.
    """

    def __init__(self, settings: dict[str, Any], timeout: float) -> None:
        optional("xllamacpp", "device")
        self._timeout = timeout
        # Straight to this machine, whatever proxy the environment names.
        self._open = build_opener(ProxyHandler({})).open
        self._log = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            # By its path, and nothing beside it: it needs none of onepass, and starts at once.
            [sys.executable, "-P", child.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for us; we end it
        )
        self._end = weakref.finalize(self, _end, self._process, self._log)
        started = self._begin(settings)
        if started is None:
            said = self._said()
            self.close()
            raise OnepassError(f"llama.cpp cannot load {settings['model']}: {said}")
        self._url = str(started["url"])

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the process; more than once does no harm."""
        self._end()

    def peak_memory(self) -> int | None:
        """The most bytes it has held so far; None if it has ended, or where no one tells."""
        # One that has ended may have left its number to another.
        return memory.peak_memory(self.pid) if self._process.poll() is None else None

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer to a request: POST of `body`, or GET without one.

        Raises:
            OnepassError: the server refuses, does not answer in time, or has ended.
        """
        if not self._end.alive:
            raise OnepassError("the engine is closed; open it again")
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data, {"Content-Type": "application/json"})
        try:
            with self._open(request, timeout=self._timeout) as answer:
                return json.loads(answer.read())
        except HTTPError as error:
            raise OnepassError(f"llama.cpp refuses the request: {_reason(error)}") from error
        except TimeoutError as error:
            raise OnepassError(
                f"the engine has not answered for {self._timeout:.0f} s; ask for fewer tokens, "
                "or allow more time"
            ) from error
        except (OSError, HTTPException, ValueError) as error:
            raise self._ended() from error

    def _begin(self, settings: dict[str, Any]) -> Any:
        """Give the process its settings: what it answers, or None if it ends instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{json.dumps(settings)}\n")
            self._process.stdin.flush()
        except OSError:
            return None
        for said in self._process.stdout:
            if said.startswith(child.MARK):
                return json.loads(said.removeprefix(child.MARK))
        return None

    def _ended(self) -> OnepassError:
        try:
            status = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return OnepassError("the engine does not answer any more; close it and open it again")
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        said = self._said()
        self.close()
        return OnepassError(f"the engine {how} ({said}); open it again")

    def _said(self) -> str:
        """The last complaint in llama.cpp's log, else its last line."""
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        signs = (" E ", "rror", "ASSERT", "abort", "terminate")
        complaints = [line for line in lines if any(sign in line for sign in signs)]
        return (complaints or lines or ["it said nothing"])[-1]


def _end(process: "subprocess.Popen[str]", log: IO[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was still to be written to one that has ended
                pipe.close()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()


def _reason(error: HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return text[:200] or f"status {error.code}"
