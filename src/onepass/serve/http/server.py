"""Listening, the key, and an orderly end."""

import asyncio
import errno
import os
import secrets
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn

from onepass.core.errors import OnepassError
from onepass.serve.http.app import Limits, build, is_loopback
from onepass.serve.http.backend import Backend
from onepass.serve.http.jobs import Jobs

KEY = "ONEPASS_SERVE_KEY"
"""The environment variable that may hold the key that clients must bring."""

_SHORTEST = 16  # characters of a key
_BACKLOG = 128  # connections that wait to be accepted
_LEFT = 5  # seconds for answers that were cut short to be sent


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any that is free.

    Raises:
        OnepassError: the port is taken, or there is no such address here.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OnepassError(
                f"port {port} of {host} is taken, perhaps by another server; stop that, or give "
                "another --port"
            ) from error
        raise OnepassError(
            f"cannot listen on port {port} of {host}: {error.strerror or error}; give another "
            "--host or --port"
        ) from error
    except OverflowError as error:
        raise OnepassError(f"there is no port {port}; give one from 0 to 65535") from error


def find_key(file: Path | None, no_key: bool, host: str) -> tuple[str | None, bool]:
    """The key that clients must bring, None for none, and whether it was made just now.

    file: holds it; otherwise it is that of the environment, or a new one.

    Raises:
        OnepassError: the file cannot be read, the key is too short or has blanks, or there is to
            be none on an address that others can reach.
    """
    if no_key:
        if file is not None:
            raise OnepassError("--no-key and --key-file contradict each other; give one of them")
        if not is_loopback(host):
            raise OnepassError(
                f"--no-key is for this machine alone, and others can reach {host}; leave out "
                "--no-key or --host"
            )
        return None, False
    where, key = KEY, os.environ.get(KEY, "")
    if file is not None:
        try:
            where, key = str(file), file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OnepassError(f"cannot read the key in {file}: {error}") from error
    elif not key:
        return secrets.token_urlsafe(24), True
    if len(key) < _SHORTEST or not all("!" <= letter <= "~" for letter in key):
        raise OnepassError(
            f"the key in {where} has {len(key)} characters; give {_SHORTEST} or more, letters, "
            "digits and signs without blanks"
        )
    return key, False


class Server(uvicorn.Server):
    """Uvicorn, with answers that are cut short `grace` seconds after it is told to end."""

    def __init__(self, backend: Backend, key: str | None, limits: Limits, grace: float) -> None:
        self._jobs = Jobs(backend, limits.waiting, limits.seconds)
        self._grace = grace
        settings: dict[str, Any] = {
            "log_config": None, "log_level": "error", "access_log": False, "server_header": False,
            "proxy_headers": False, "http": "h11", "ws": "none", "loop": "asyncio",
            "lifespan": "on", "timeout_graceful_shutdown": max(1, round(grace + _LEFT)),
        }  # fmt: skip
        super().__init__(uvicorn.Config(build(backend, self._jobs, key, limits), **settings))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cut = asyncio.get_running_loop().call_later(self._grace, self._jobs.end)
        try:
            await super().shutdown(sockets)
        finally:
            cut.cancel()


def run(
    backend: Backend,
    listening: socket.socket,
    key: str | None,
    limits: Limits,
    grace: float,
    ready: Callable[[], None],
) -> None:
    """Serve until SIGINT or SIGTERM, then close the backend; a second signal ends it at once.

    ready: called when the next request will be answered.
    """
    server = Server(backend, key, limits, grace)
    # Uvicorn raises the signal again when it has ended, for whoever else wants to know of it.
    before = {each: signal.signal(each, _ended) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        ready()
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    finally:
        backend.close()
        listening.close()
        for each, handler in before.items():
            signal.signal(each, handler)


def _ended(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
