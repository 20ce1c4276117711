"""Asking a model on an OpenAI-compatible server: vLLM, llama.cpp, or a service on the web.

Retries, waits and typed errors are the openai package's. Added here: requests in flight, limits on
cost, answers that are no text, and a reason in place of each missing answer, so that one bad prompt
never costs the others. What is wrong for all prompts (key, model, address) is an `OnepassError`.
"""

import asyncio
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from onepass.core.errors import OnepassError
from onepass.core.optional import optional
from onepass.core.text import whole

KEY = "ONEPASS_API_KEY"
"""The environment variable that holds the key of the server, where it needs one."""

_PAUSE = 0.5  # seconds before an unreadable answer is asked for again; doubles
_LONGEST_WAIT = 120.0  # seconds: how long the package waits at most if a server asks it to
_HOPELESS = 10  # prompts in a row without an answer, after which no more are sent
_SHOWN = 200  # characters of a server's message that an error repeats
_CHARACTERS_PER_TOKEN = 3  # where a server does not count: rather too many tokens than too few


@dataclass(frozen=True)
class Endpoint:
    """The address of a served model, and the limits on its use.

    url: up to and including the version, as in "http://127.0.0.1:8000/v1".
    model: its name on the server.
    key: the server's; never printed. Usually not needed on localhost.
    concurrency: requests in flight. timeout: seconds for one answer. retries: of one prompt.
    input_price, output_price: per million tokens, in any currency.
    max_cost: no more prompts are sent once this much is spent; needs the prices.
    max_total_tokens: the same as a number of tokens, in and out.
    """

    url: str
    model: str
    key: str = field(default_factory=lambda: os.environ.get(KEY, ""), repr=False)
    concurrency: int = 4
    timeout: float = 60.0
    retries: int = 5
    input_price: float | None = None
    output_price: float | None = None
    max_cost: float | None = None
    max_total_tokens: int | None = None

    def __post_init__(self) -> None:
        _check_url(self.url)
        if not self.model.strip():
            raise OnepassError("model is empty; give the name that the server has for its model")
        if not all("!" <= letter <= "~" for letter in self.key):
            raise OnepassError(
                f"the key in {KEY} has a blank or a letter that keys do not have; copy it again"
            )
        for name, least in (("concurrency", 1), ("retries", 0), ("max_total_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise OnepassError(f"{name} is {value}; give {least} or more")
        for name in ("timeout", "max_cost"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OnepassError(f"{name} is {value}; give a positive number")
        for name in ("input_price", "output_price"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise OnepassError(f"{name} is {value}; give a price per million tokens")
        if self.max_cost is not None and None in (self.input_price, self.output_price):
            raise OnepassError(
                "max_cost needs input_price and output_price, per million tokens; "
                "give them, or set a limit with max_total_tokens"
            )


@dataclass(frozen=True)
class Response:
    """The `text` of an answer; or None, and the `error` that explains why.

    cut: the answer reached the maximum of new tokens, so that its end is missing, or all of it.
    The tokens are those of all answers to the prompt, estimated if the server does not count.
    """

    text: str | None
    error: str = ""
    cut: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class Spent:
    """Tokens used so far."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def cost(self, endpoint: Endpoint) -> float | None:
        """In the currency of the prices; None if they are unknown."""
        if endpoint.input_price is None or endpoint.output_price is None:
            return None
        price = self.prompt_tokens * endpoint.input_price
        return (price + self.completion_tokens * endpoint.output_price) / 1e6


def ask(
    endpoint: Endpoint,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    on_response: Callable[[int, Response], None] | None = None,
    spent: Spent | None = None,
    extra: Mapping[str, Any] | None = None,
    system: str = "",
) -> list[Response]:
    """The greedy answer to each prompt, sent as a user message of its own.

    on_response: called with the index of a prompt and its response, as they come, in the calling
        thread and one at a time; store the response there.
    spent: counts against the limits of the endpoint, and grows.
    extra: further fields of the request, which not every server takes.
    system: a system message before each prompt; "" for none.

    A failed attempt (busy or broken server, cut connection, timeout, unreadable answer) is repeated
    up to `endpoint.retries` times. An answer that is cut off before any text, as with a model that
    reasons first, is not: it would end the same way.
    Raises `OnepassError` if going on is useless: nothing answers at the address, the key or the
    model is refused, a limit is reached (requests in flight may exceed it), or ten prompts in a row
    have failed. `on_response` has had all responses up to then.
    """
    if max_new_tokens < 1:
        raise OnepassError(f"max_new_tokens is {max_new_tokens}; give 1 or more")
    if not prompts:
        return []
    fields = {"max_tokens": max_new_tokens, "extra_body": dict(extra or {})}
    client = _Client(endpoint, fields, Spent() if spent is None else spent, system)
    return asyncio.run(client.answer_all(prompts, on_response or (lambda index, response: None)))


class _Failed(Exception):
    """A prompt without an answer. `cut`: as in `Response`.

    `counts`: it is a sign that the server fails all prompts. `again`: asking again may help.
    """

    def __init__(
        self, reason: str, counts: bool = True, again: bool = False, cut: bool = False
    ) -> None:
        super().__init__(reason)
        self.counts, self.again, self.cut = counts, again, cut


class _Client:
    """One call of `ask`: the package's client, and the counts over all prompts."""

    def __init__(
        self, endpoint: Endpoint, fields: dict[str, Any], spent: Spent, system: str
    ) -> None:
        self.endpoint, self.fields, self.spent = endpoint, fields, spent
        self.before = [{"role": "system", "content": whole(system)}] if system else []
        self.openai = optional("openai", "endpoint")
        self.models: list[str] = []
        self.failed_in_a_row = 0

    async def answer_all(
        self, prompts: Sequence[str], on_response: Callable[[int, Response], None]
    ) -> list[Response]:
        responses: dict[int, Response] = {}

        async def work(indices: Iterator[int]) -> None:
            for index in indices:
                if self.limit_reached():
                    return
                responses[index] = await self.respond(prompts[index])
                on_response(index, responses[index])

        self.client = self.openai.AsyncOpenAI(
            base_url=self.endpoint.url, api_key=self.endpoint.key or "none",
            timeout=self.endpoint.timeout, max_retries=self.endpoint.retries,
        )  # fmt: skip
        async with self.client:
            self.models = await self.list_models()
            indices = iter(range(len(prompts)))
            count = min(self.endpoint.concurrency, len(prompts))
            workers = [asyncio.ensure_future(work(indices)) for _ in range(count)]
            try:
                await asyncio.gather(*workers)
            finally:  # after an error or Ctrl-C the others are not waited for
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        if len(responses) < len(prompts):
            raise OnepassError(
                f"{self.limit_reached()}, with {len(responses)} of {len(prompts)} prompts "
                "answered; allow more and run it again to go on"
            )
        return [responses[index] for index in range(len(prompts))]

    async def list_models(self) -> list[str]:
        """The names of the server's models; none if it does not list them.

        Raises `OnepassError` if nothing listens at the address, without any retry.
        """
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                page = await self.client.with_options(max_retries=0).models.list()
            return [str(model.id) for model in page.data]
        except self.openai.APIConnectionError as error:
            # The package has no error of its own for a connection that was never made.
            if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout"):
                raise OnepassError(
                    f"nothing answers at {self.endpoint.url} ({self.plain(error.__cause__)}); "
                    "start the server, or give the address it listens at"
                ) from None
        except (self.openai.OpenAIError, TimeoutError, *_UNREADABLE):
            pass
        return []

    def limit_reached(self) -> str:
        """The limit that is reached; "" if none is."""
        cost, limits = self.spent.cost(self.endpoint), self.endpoint
        if limits.max_cost is not None and cost is not None and cost >= limits.max_cost:
            return f"reached max_cost {limits.max_cost:g}"
        if limits.max_total_tokens is not None and self.spent.tokens >= limits.max_total_tokens:
            return f"reached max_total_tokens {limits.max_total_tokens}"
        return ""

    async def respond(self, prompt: str) -> Response:
        """The answer to one prompt, asked for again while it is unreadable."""
        used = Spent()
        retry = 0
        while True:
            try:
                text, cut = await self.request(prompt, used)
            except _Failed as failed:
                if failed.again and retry < self.endpoint.retries:
                    await asyncio.sleep(_PAUSE * 2 ** min(retry, 4))
                    retry += 1
                    continue
                self.failed_in_a_row += failed.counts
                if self.failed_in_a_row >= _HOPELESS:
                    raise OnepassError(
                        f"{self.endpoint.url}: {self.failed_in_a_row} prompts in a row had no "
                        f"answer, with {self.endpoint.retries} retries each; the last: {failed}"
                    ) from None
                tokens = (used.prompt_tokens, used.completion_tokens)
                return Response(None, str(failed), failed.cut, *tokens)
            self.failed_in_a_row = 0
            return Response(text, "", cut, used.prompt_tokens, used.completion_tokens)

    async def request(self, prompt: str, used: Spent) -> tuple[str, bool]:
        """The text of the server's answer, and whether it was cut off.

        Raises `_Failed`, or `OnepassError` for what is wrong for all prompts.
        """
        openai, limits = self.openai, self.endpoint
        # The package's timeout starts anew with every byte; this is for answers that drip.
        longest = limits.timeout * (limits.retries + 1) + _LONGEST_WAIT * limits.retries
        try:
            async with asyncio.timeout(longest):
                answer = await self.client.chat.completions.create(
                    model=limits.model,
                    messages=[*self.before, {"role": "user", "content": whole(prompt)}],
                    temperature=0.0,
                    **self.fields,
                )
        except (TimeoutError, openai.APITimeoutError):
            raise _Failed(f"no answer within {limits.timeout:g} s") from None
        except openai.APIStatusError as error:
            self.refuse(error)
            wait = error.response.headers.get("retry-after")
            asked = f" (Retry-After: {self.plain(wait)})" if wait else ""
            reason = f"the server answers {error.status_code}: {self.message(error)}{asked}"
            busy = error.status_code in (408, 409, 429) or error.status_code >= 500
            raise _Failed(reason, counts=busy) from None
        except openai.APIConnectionError as error:
            reason = self.plain(error.__cause__ or error)
            raise _Failed(f"the connection failed ({reason})") from None
        except _UNREADABLE as error:
            raise _Failed(f"the answer is not JSON ({self.plain(error)})", again=True) from None
        self.count(answer, prompt, used)
        try:
            choice = answer.choices[0]
            text, cut = choice.message.content, choice.finish_reason == "length"
        except _UNREADABLE:
            start = self.plain(answer)[:60]
            raise _Failed(f"no choices[0].message.content in {start!r}", again=True) from None
        if isinstance(text, str) and text.strip():
            return whole(text.strip()), cut
        if cut:
            tokens = self.fields["max_tokens"]
            raise _Failed(f"cut off at {tokens} tokens before any text; allow more", cut=True)
        raise _Failed(f"choices[0].message.content is {text!r}, not a text", again=True)

    def count(self, answer: Any, prompt: str, used: Spent) -> None:
        """Add the tokens of an answer, as the server counts them or else estimated."""
        usage = getattr(answer, "usage", None)
        read, written = (
            found if type(found) is int and found >= 0 else -(-length // _CHARACTERS_PER_TOKEN)
            for found, length in (
                (getattr(usage, "prompt_tokens", None), len(prompt)),
                (getattr(usage, "completion_tokens", None), len(str(answer))),
            )
        )
        for tally in (used, self.spent):
            tally.prompt_tokens += read
            tally.completion_tokens += written

    def refuse(self, error: Any) -> None:
        """Raise an `OnepassError` for a status that every prompt would get."""
        url, message = self.endpoint.url, self.message(error)
        if error.status_code in (401, 403):
            have = "the key in" if self.endpoint.key else "no key; put one into the variable"
            raise OnepassError(f"{url} refuses {have} {KEY} ({error.status_code}: {message})")
        if error.code == "insufficient_quota":
            raise OnepassError(f"{url}: no credit is left ({message})")
        if error.status_code in (404, 405) or error.code == "model_not_found":
            if self.models and self.endpoint.model not in self.models:
                known = ", ".join(self.models)
                raise OnepassError(f"{url} has no model {self.endpoint.model!r}; it has {known}")
            raise OnepassError(
                f"{url} is not the address of an OpenAI-compatible server "
                f"({error.status_code}: {message}); it usually ends in /v1"
            )

    def message(self, error: Any) -> str:
        """The server's own words in an error."""
        body = error.body
        given = body.get("message") if isinstance(body, dict) else None
        return self.plain(given if isinstance(given, str) else error.response.text or error)

    def plain(self, message: object) -> str:
        """A server's words, in one short line of printable letters and without the key."""
        text = str(message)
        if self.endpoint.key:
            text = text.replace(self.endpoint.key, "***")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return f"{text[:_SHOWN]}…" if len(text) > _SHOWN else text


_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What reading an answer of the wrong form raises."""


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise OnepassError(f"url is {url!r}; give one such as http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise OnepassError(f"url holds a user or a password; put the key into {KEY} instead")
    if parts.query or parts.fragment or parts.path.rstrip("/").endswith("/completions"):
        raise OnepassError(
            f"url is {url!r}; give it only up to the version, such as http://127.0.0.1:8000/v1"
        )
