"""The server's addresses, as a Starlette application. A page for people belongs at "/"."""

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.serve.http.backend import Backend, Model
from onepass.serve.http.jobs import Answering, Busy, Ending, Failed, Jobs, Late
from onepass.serve.http.replies import Form, error_body, error_event, model_body
from onepass.serve.http.requests import Chat, Completion, Refused, job_of, parse

OPEN = ("/", "/health")
"""Paths that need no key."""
_DISCARDED = 16  # times the largest body: what is read of one that is larger, so that it is told
_GONE = 499  # the client has hung up; nobody reads this answer
_ARRIVAL = 30.0  # seconds for the body of a request


@dataclass(frozen=True)
class Limits:
    """body: bytes of a request. tokens: the highest max_tokens. waiting: requests in the queue.
    seconds: the longest that an answer may take.
    """

    body: int = 2**20
    tokens: int = 1024
    waiting: int = 64
    seconds: float = 300.0


def build(backend: Backend, jobs: Jobs, key: str | None, limits: Limits) -> Starlette:
    """The application.

    key: what requests must bring as a bearer token; without one, only those of programs on this
    machine are answered, not those of pages in its browsers.
    """
    started = int(time.time())

    async def health(request: Request) -> Response:
        body = {
            "status": "failed" if backend.failed else "ok",
            "models": len(backend.models), "running": jobs.running, "waiting": jobs.waiting,
        }  # fmt: skip
        return JSONResponse(body, 503 if backend.failed else 200)

    async def root(request: Request) -> Response:
        return PlainTextResponse("onepass: POST /v1/chat/completions, GET /v1/models, /health\n")

    async def models(request: Request) -> Response:
        data = [model_body(model, started) for model in backend.models.values()]
        return JSONResponse({"object": "list", "data": data})

    async def model(request: Request) -> Response:
        return JSONResponse(model_body(named(request.path_params["name"]), started))

    def named(name: str) -> Model:
        if name not in backend.models:
            why = str(unknown("model", name, list(backend.models)))
            raise Refused(why, "model", 404, "model_not_found")
        return backend.models[name]

    async def chat(request: Request) -> Response:
        return await answered(request, Chat)

    async def completion(request: Request) -> Response:
        return await answered(request, Completion)

    async def answered(request: Request, kind: type[Chat] | type[Completion]) -> Response:
        asked = parse(kind, await _body(request, limits), limits.tokens)
        job = job_of(asked, named(asked.model))
        if backend.failed:
            raise Failed("the engine has ended")
        options = asked.stream_options
        counts = bool(options and options.include_usage)
        form = Form(asked.model, isinstance(asked, Chat), counts)
        answering = jobs.start(job)
        pieces = answering.pieces()
        handed_on = False
        try:
            if asked.stream:
                # With the first piece it is known whether there will be an answer.
                first = await _unless_gone(request, anext(pieces, None))
                stream = _Stream(_events(answering, form, first, pieces))
                stream.done = partial(jobs.drop, answering)
                handed_on = True
                return stream
            await _unless_gone(request, _drained(pieces))
            assert answering.reply is not None
            return JSONResponse(form.whole(answering.reply))
        finally:
            if not handed_on:
                jobs.drop(answering)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await jobs.close()

    return Starlette(
        routes=[
            Route("/", root),
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completion, methods=["POST"]),
        ],
        middleware=[Middleware(_Key, key=key)],
        exception_handlers=dict.fromkeys((*_TOLD, Exception), _told),
        lifespan=lifespan,
    )


class _Stream(StreamingResponse):
    """A stream of events; `done` is called when it has ended, or its client has hung up."""

    media_type = "text/event-stream"
    done: Callable[[], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["Cache-Control"] = "no-cache"
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.done()


async def _events(
    answering: Answering, form: Form, first: str | None, pieces: AsyncIterator[str]
) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    try:
        yield form.first() + (form.piece(first) if first else "")
        async for piece in pieces:
            yield form.piece(piece)
        assert answering.reply is not None
        yield form.last(answering.reply)
    except _TOLD as error:
        yield error_event(_explained(error)[1])


async def _drained(pieces: AsyncIterator[str]) -> None:
    async for _ in pieces:
        pass


async def _unless_gone(request: Request, wanted: Awaitable[Any]) -> Any:
    """What is wanted, unless the client hangs up before: then `ClientDisconnect`."""
    work = asyncio.ensure_future(wanted)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        for task in (work, gone):
            if task.cancel():
                with suppress(asyncio.CancelledError):
                    await task


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, limits: Limits) -> bytes:
    """The body of a request.

    Raises:
        Refused: it is larger, or takes longer, than it may.
    """
    kept: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(_ARRIVAL):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= limits.body:
                    kept.append(chunk)
                elif size > _DISCARDED * limits.body:
                    break
    except TimeoutError as error:
        raise Refused("the request did not arrive in time", status=408) from error
    if size > limits.body:
        raise Refused(f"the body has more than the {limits.body:,} bytes allowed", status=413)
    return b"".join(kept)


class _Key:
    """Lets no request past without the key; without one, none that a page could send by itself."""

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self._app = app
        self._key = None if key is None else f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        if scope["path"] in OPEN:
            return None
        if self._key is None:
            return _from_a_page(scope["method"], headers)
        if hmac.compare_digest(headers.get(b"authorization", b""), self._key):
            return None
        message = "wrong or missing key; send the header Authorization: Bearer KEY"
        body = error_body(message, 401, code="invalid_api_key")
        return JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})


def _from_a_page(method: str, headers: Mapping[bytes, bytes]) -> Response | None:
    """The refusal of what a page in a browser may have sent; None for what it cannot send."""
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if not is_loopback(_host(headers.get(b"host", b"").decode("latin-1"))):
        # Its name leads to this machine, but is another's.
        return JSONResponse(error_body("without a key, the host must be localhost", 403), 403)
    if method == "POST" and kind != b"application/json":
        # To send JSON to another site, a browser asks for leave first, and does not get it.
        message = "without a key, requests need the header Content-Type: application/json"
        return JSONResponse(error_body(message, 415), 415)
    return None


def _host(header: str) -> str:
    """The host in a header `Host`, without its port; "" if it makes no sense."""
    with suppress(ValueError):
        return urlsplit(f"//{header}").hostname or ""
    return ""


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is of this machine alone."""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


def _explained(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """The status, body and headers for what went wrong."""
    match error:
        case Refused():
            status = error.status
            return status, error_body(str(error), status, error.param, error.code), {}
        case Busy():
            message = f"too many requests are waiting; try again in {error.seconds} s"
            return 429, error_body(message, 429), {"Retry-After": str(error.seconds)}
        case Late():
            message = "the answer took longer than this server allows; ask for fewer tokens"
            return 504, error_body(message, 504, code="timeout"), {}
        case Ending():
            return 503, error_body("the server is shutting down", 503), {"Connection": "close"}
        case ClientDisconnect():
            return _GONE, error_body("the client has hung up", _GONE), {}
        case Failed():
            return 503, error_body(f"{error}; start the server again", 503), {}
        case HTTPException():
            status = error.status_code
            return status, error_body(error.detail, status), dict(error.headers or {})
        case OnepassError():
            return 400, error_body(str(error), 400), {}
        case _:
            return 500, error_body("internal error; the server's log has more", 500), {}


_TOLD = (Refused, Busy, Late, Ending, Failed, ClientDisconnect, HTTPException, OnepassError)


async def _told(request: Request, error: Exception) -> Response:
    status, body, headers = _explained(error)
    return Response(json.dumps(body), status, headers, "application/json")
