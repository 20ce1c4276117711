"""A server on 127.0.0.1 that speaks OpenAI's chat API, and does to each request what it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from onepass.serve.endpoint import Endpoint

Reply = Callable[[str, int], Any]
"""(prompt, how often it has been asked before) to what the server does: see `serving`."""


class Stub(ThreadingHTTPServer):
    """`asked`: every prompt that came, in order; `busiest`: the most requests at a time."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, reply: Reply, models: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply, self.models = reply, models
        self.asked: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.now = self.busiest = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Tests print nothing."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self.send(200, {"data": [{"id": name} for name in self.server.models]})
        else:
            self.send(404, "<html>Not Found</html>")

    def do_POST(self) -> None:
        server = self.server
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self.send(404, "<html>Not Found</html>")
            return
        prompt = request["messages"][-1]["content"]
        with server.lock:
            times = server.asked.count(prompt)
            server.asked.append(prompt)
            server.requests.append(request)
            server.keys.add(self.headers["Authorization"])
            server.now += 1
            server.busiest = max(server.busiest, server.now)
        try:
            self.act(server.reply(prompt, times))
        finally:
            with server.lock:
                server.now -= 1

    def act(self, what: Any) -> None:
        match what:
            case str(text):
                self.send(200, completion(text))
            case int(status):
                self.send(status, {"error": {"message": f"status {status}", "code": None}})
            case (int(status), body):
                self.send(status, body)
            case (int(status), body, dict(headers)):
                self.send(status, body, headers)
            case float(seconds):
                time.sleep(seconds)
                self.send(200, completion("late"))
            case None:  # cut in mid-answer
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.close_connection = True

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        kind = "text/html" if data.startswith(b"<") else "application/json"
        for name, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def completion(
    text: Any, prompt_tokens: int = 10, completion_tokens: int = 2, finish_reason: str = "stop"
) -> dict[str, Any]:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }


@contextmanager
def serving(reply: Reply, models: tuple[str, ...] = ("stub",)) -> Iterator[Stub]:
    """A server while the block lasts.

    What `reply` gives is done: a text is answered; a status is sent, alone or with a body (and
    headers); after so many seconds (a float) "late" is answered; None cuts the connection.
    """
    stub = Stub(reply, list(models))
    thread = threading.Thread(target=stub.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.shutdown()
        stub.server_close()
        thread.join()


def endpoint(stub: Stub, **changes: Any) -> Endpoint:
    """The stub, asked with a short patience."""
    return Endpoint(**{"url": stub.url, "model": "stub", "timeout": 5.0, **changes})
