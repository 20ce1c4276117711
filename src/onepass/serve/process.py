"""llama.cpp's server in a process of its own, reached by HTTP on this machine."""

import json
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import IO, Any
from urllib.parse import urlsplit

from onepass.core import memory
from onepass.core.errors import OnepassError
from onepass.core.optional import optional
from onepass.serve import child
from onepass.serve.stop import Stop

_GRACE = 5.0  # seconds to wait for the exit status of a process that does not answer
_EVENT = b"data: "
_ERROR = " E "  # marks an error in a line of llama.cpp's log, after the time


class EngineProcess:
    """A running server with these `settings` (see `child._serve`), until closed or collected.

    `url` is its address, `key` its bearer token. `timeout`: seconds to wait for an answer, or for
    the next piece of a streamed one. Requests may come from several threads.

    Raises:
        OnepassError: it did not start; the message quotes llama.cpp.
    """

    def __init__(self, settings: dict[str, Any], timeout: float) -> None:
        optional("xllamacpp", "device")
        self._timeout = timeout
        self._log = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            # By its path: it imports nothing of onepass, and starts at once.
            [sys.executable, "-P", child.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # so that Ctrl-C does not reach it
        )
        self._end = weakref.finalize(self, _end, self._process, self._log)
        # All users of this machine, and the pages in their browsers, can reach its ports.
        self.key = secrets.token_urlsafe()
        started = self._begin({**settings, "key": self.key})
        if started is None:
            complaints = self._complaints()
            self.close()
            # The first error is the cause, the others are its consequences.
            causes = [line for line in complaints if _ERROR in line] or complaints[-1:]
            raise OnepassError(
                f"llama.cpp cannot load {settings['model']} with {len(settings['adapters'])} "
                f"adapters, context {settings['context']} and {settings['slots']} slots: "
                f"{causes[0].rpartition(_ERROR)[2] if causes else 'it does not say why'}"
            )
        self.url = str(started["url"])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def closed(self) -> bool:
        return not self._end.alive

    def close(self) -> None:
        """End the process; more than once does no harm."""
        self._end()

    def peak_memory(self) -> int | None:
        """The most bytes it has held so far; None if unknown or ended (its pid may be reused)."""
        return memory.peak_memory(self.pid) if self._process.poll() is None else None

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer to a request: POST of `body`, or GET without one.

        Raises:
            OnepassError: the server refuses, does not answer in time, or has ended.
        """
        with self._answer(path, body) as answer:
            return json.loads(answer.read())

    def stream(
        self, path: str, body: dict[str, Any], stop: Stop | None = None
    ) -> Generator[Any, None, None]:
        """The JSON events of a streamed answer to a POST of `body`, as they come.

        Closing the generator early, or setting `stop`, makes the server stop its work.

        Raises:
            OnepassError: as `ask`, at any event.
            Stopped: `stop` was set.
        """
        event: dict[str, Any] = {}
        with self._answer(path, body, stop) as answer:
            for line in answer:
                if line.startswith(_EVENT):
                    event = json.loads(line.removeprefix(_EVENT))
                    if "error" in event:
                        raise _refusal(line.removeprefix(_EVENT))
                    yield event
            if not event.get("stop"):
                raise HTTPException("the stream was cut off")

    @contextmanager
    def _answer(
        self, path: str, body: dict[str, Any] | None, stop: Stop | None = None
    ) -> Iterator[HTTPResponse]:
        """The response to a request, on a connection of its own, to be read to its end."""
        if self.closed:
            raise OnepassError("the engine is closed; open it again")
        stop = stop or Stop()
        # http.client ignores the proxies of the environment, as it should on this machine.
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=self._timeout)
        try:
            method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
            connection.connect()
            with stop.then(partial(_cut, connection.sock)):
                connection.request(method, path, data, headers)
                with connection.getresponse() as answer:
                    if answer.status != HTTPStatus.OK:
                        raise _refusal(answer.read())
                    yield answer
        except TimeoutError as error:
            raise OnepassError(
                f"the engine has not answered for {self._timeout:g} s; ask for fewer tokens, "
                "or allow more time"
            ) from error
        except (OSError, HTTPException, ValueError) as error:
            stop.check()
            raise self._ended() from error
        finally:
            connection.close()

    def _begin(self, settings: dict[str, Any]) -> Any:
        """Send the settings; the process's answer, or None if it ends instead."""
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
            status = self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            return OnepassError("the engine does not answer any more; close it and open it again")
        if not self._end.alive:
            return OnepassError("the engine was closed before it had answered; open it again")
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        # A killed process logs no reason; earlier complaints are about something else.
        killed = status in (-9, -signal.SIGTERM)  # Windows has no name for 9
        complaints = [] if killed else self._complaints()
        self.close()
        said = f" ({complaints[-1]})" if complaints else ""
        return OnepassError(f"the engine {how}{said}; open it again")

    def _complaints(self) -> list[str]:
        """The lines of llama.cpp's log that report something wrong."""
        lines: list[str] = []
        with suppress(ValueError):  # another thread has just closed it
            self._log.seek(0)
            lines = [line.strip() for line in self._log.read().splitlines()]
        signs = (_ERROR, "rror", "ASSERT", "abort", "terminate")
        return [line for line in lines if any(sign in line for sign in signs)]


def _end(process: "subprocess.Popen[str]", log: IO[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # unwritten data for a process that has ended
                pipe.close()
    process.kill()  # it has nothing to save, and may be busy or stopped
    process.wait()
    log.close()


def _cut(connection: socket.socket) -> None:
    """End a connection under whoever is reading from it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _refusal(said: bytes) -> OnepassError:
    try:
        reason = str(json.loads(said)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        reason = said[:200].decode(errors="replace") or "it does not say why"
    return OnepassError(f"llama.cpp refuses the request: {reason}")
