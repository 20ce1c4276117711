"""The server in a thread of the tests, what it serves, and how it is asked."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import openai

from onepass.adapters.adapter import load_adapter
from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.model.assets import embedded_adapter
from onepass.model.load import Base, load_base
from onepass.serve.http.app import Limits
from onepass.serve.http.backend import Backend, Job, Model, Reply
from onepass.serve.http.server import Server, listen
from onepass.serve.stop import Stop
from onepass.serve.stream import OnText
from onepass.tasks.book import parse_task

KEY = "a-key-for-the-tests"
PAIR = "summarize+translate:es"
CHATS = [
    f"{a}: Shall we meet at the {place} at {hour}?\n{b}: Yes, {a}. See you there."
    for a, b, place, hour in [
        ("Ana", "Ben", "harbour", "five"), ("Carla", "Dario", "station", "six"),
        ("Elena", "Felix", "library", "nine"), ("Greta", "Hugo", "theatre", "two"),
        ("Ines", "Jonas", "bakery", "ten"), ("Karim", "Lea", "bridge", "eight"),
        ("Maria", "Nils", "market", "four"), ("Olga", "Paul", "park", "seven"),
    ]
]  # fmt: skip


@cache
def tiny() -> Base:
    """The embedded base; not to be changed."""
    return load_base("tiny", "cpu")


def compositions() -> dict[str, Composition]:
    """A merge of two embedded adapters, and the same in two steps."""
    task, base = parse_task(PAIR), tiny()
    adapters = [load_adapter(embedded_adapter(part.name)) for part in task.parts]
    merged = Pass(task, (Weighted(adapters[0], 1.0), Weighted(adapters[1], 0.3)))
    steps = tuple(
        Pass(part, (Weighted(each),)) for part, each in zip(task.parts, adapters, strict=True)
    )
    return {
        "both": Composition(base.shape, task, (merged,), "linear"),
        "steps": Composition(base.shape, task, steps, "multi-step"),
    }


@dataclass
class Endless:
    """A backend without a model: "echo" repeats its text, "endless" never ends by itself."""

    at_once: int = 1
    failed: bool = False
    models: Mapping[str, Model] = field(
        default_factory=lambda: {
            "echo": Model("echo", "repeat", 1),
            "endless": Model("endless", "go on", 1),
            "silent": Model("silent", "say nothing", 1),
            "base": Model("base", "chat", 1, chat=True),
            "broken": Model("broken", "fail", 1),
        }
    )
    now: int = 0
    jobs: list[Job] = field(default_factory=list)

    def answer(self, job: Job, on_text: OnText, stop: Stop) -> Reply:
        self.now += 1
        self.jobs.append(job)
        try:
            if job.model == "broken":
                raise ZeroDivisionError("a bug")
            while job.model in ("endless", "silent"):
                stop.check()
                if job.model == "endless":
                    on_text("on ")
                time.sleep(0.01)
            text = str(job.content)
            size = max(7, len(text) // 20)
            for place in range(0, len(text), size):
                on_text(text[place : place + size])
            return Reply(text, 3, 1, 2, cut=False)
        finally:
            self.now -= 1

    def close(self) -> None:
        pass


@dataclass
class Running:
    """A server at a `port`; `ended` waits for its end, which `end` brings about."""

    port: int
    end: Callable[[], None]
    ended: threading.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @cached_property
    def _client(self) -> openai.OpenAI:
        return self.client()

    def client(self, key: str = KEY) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=60)

    def said(self, model: str, text: str, max_tokens: int | None = None) -> str:
        """The answer to a text, by OpenAI's own client."""
        options: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
        done = self._client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], **options
        )
        return str(done.choices[0].message.content)

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        """The status and JSON (or text) of a request as it stands; `headers` beside the key."""
        given = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            said = answer.read().decode()
        is_json = "json" in (answer.getheader("Content-Type") or "")
        return answer.status, json.loads(said) if is_json else said

    def chat(self, **body: Any) -> tuple[int, Any]:
        body.setdefault("messages", [{"role": "user", "content": "Hello"}])
        return self.ask("POST", "/v1/chat/completions", json.dumps(body).encode())

    def health(self) -> Any:
        return self.ask("GET", "/health")[1]

    @contextmanager
    def stream(self, **body: Any) -> Iterator[http.client.HTTPResponse]:
        """A streamed answer; leaving the block hangs up."""
        body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, **body}
        headers = {"Authorization": f"Bearer {KEY}"}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            with connection.getresponse() as answer:
                yield answer


@contextmanager
def running(
    backend: Backend, key: str | None = KEY, limits: Limits | None = None, grace: float = 5.0
) -> Iterator[Running]:
    listening = listen("127.0.0.1", 0)
    server = Server(backend, key, limits or Limits(), grace)
    ended = threading.Event()

    def serve() -> None:
        server.run(sockets=[listening])
        ended.set()

    def end() -> None:
        server.should_exit = True

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Running(listening.getsockname()[1], end, ended)
    finally:
        end()
        thread.join(30)
        assert ended.is_set()


def until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until something holds; fail if it does not."""
    for _ in range(round(seconds / 0.02)):
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come to that")
