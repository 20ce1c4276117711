"""A model behind an OpenAI-compatible server: vLLM, llama.cpp, or a service on the web.

Its answers come as text or as the reason why there is none, so that one bad prompt never costs the
others. What is wrong for all of them (a wrong key, model or address) is an `OnepassError` at once.
"""

import asyncio
import itertools
import json
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from onepass.core.errors import OnepassError
from onepass.core.optional import optional
from onepass.core.text import whole
from onepass.serve import reply

KEY = "ONEPASS_API_KEY"
"""The environment variable that holds the key of the server, where it needs one."""

_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_TOLD_WAIT = 0.5, 30.0, 120.0  # seconds
_HOPELESS = 10  # prompts in a row that fail for good: more would not fare better
_SHOWN = 200  # characters of a server's message that an error repeats


@dataclass(frozen=True)
class Endpoint:
    """Where a model is served, and how it may be asked.

    url: up to and with the version, as in "http://127.0.0.1:8000/v1".
    model: the name that the server knows it by.
    key: the server's; never shown. Servers on the own machine mostly need none.
    concurrency: requests in flight. timeout: seconds for one whole answer. retries: of one prompt.
    input_price, output_price: of a million tokens, in any currency.
    max_cost: when this much of it is spent, nothing more is asked; needs the prices.
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
    """What came of one prompt: the answer's `text`, or None and the `error` that explains why.

    cut: it was cut off at the most tokens it may have, so that its end is missing, or all of it.
    The tokens are those of all attempts, estimated where the server does not count.
    """

    text: str | None
    error: str = ""
    cut: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass
class Spent:
    """Tokens used up; it grows while a server is asked."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def cost(self, endpoint: Endpoint) -> float | None:
        """In the currency of the prices; None where they are not known."""
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
) -> list[Response]:
    """The greedy answer to each prompt, a user message of its own.

    on_response: called with the place of a prompt and its response as soon as that has come, in the
        calling thread and never by two at a time: the place to store it.
    spent: what was spent before; it counts against the limits of the endpoint, and grows.
    extra: further fields of the request, which not every server takes.

    A failed attempt (busy or broken server, cut connection, timeout, an answer that is none) is
    repeated up to `endpoint.retries` times, after waits that double or as long as the server says.
    One cut off before any text, as of a model that reasons first, would end so again, and is not.
    Raises `OnepassError` when nothing can come of it: nobody listens at the address, the key or the
    model is refused, a limit is reached (going over it by what is in flight), or ten prompts in a
    row have failed. What came before has been given to `on_response`.
    """
    if max_new_tokens < 1:
        raise OnepassError(f"max_new_tokens is {max_new_tokens}; give 1 or more")
    if not prompts:
        return []
    fields = {"max_tokens": max_new_tokens, "extra_body": dict(extra or {})}
    asking = _Asking(endpoint, fields, Spent() if spent is None else spent)
    return asyncio.run(asking.all(prompts, on_response or (lambda place, response: None)))


class _Failed(Exception):
    """An attempt that failed. `again`: whether another may fare better; `wait`: seconds told.

    `cut`: as of a `Response`.
    """

    def __init__(
        self, reason: str, again: bool = True, wait: float | None = None, cut: bool = False
    ) -> None:
        super().__init__(reason)
        self.again = again
        self.wait = wait
        self.cut = cut


class _Asking:
    """One call of `ask`: the client, and what is counted over all prompts."""

    def __init__(self, endpoint: Endpoint, fields: dict[str, Any], spent: Spent) -> None:
        self.endpoint = endpoint
        self.fields = fields
        self.spent = spent
        self.openai = optional("openai", "endpoint")
        self.heard = False  # whether the server has ever said anything
        self.failed_in_a_row = 0

    async def all(
        self, prompts: Sequence[str], on_response: Callable[[int, Response], None]
    ) -> list[Response]:
        responses: dict[int, Response] = {}

        async def work(places: Iterator[int]) -> None:
            for place in places:
                if self.limit_reached():
                    return
                responses[place] = await self.respond(prompts[place])
                on_response(place, responses[place])

        # The retries are ours: the package's know nothing of answers that are none, and its timeout
        # starts anew with every byte.
        self.client = self.openai.AsyncOpenAI(
            base_url=self.endpoint.url, api_key=self.endpoint.key or "none", max_retries=0
        )
        places = iter(range(len(prompts)))
        workers = [
            asyncio.ensure_future(work(places))
            for _ in range(min(self.endpoint.concurrency, len(prompts)))
        ]
        async with self.client:
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
        return [responses[place] for place in range(len(prompts))]

    def limit_reached(self) -> str:
        """Which limit is, "" if none is."""
        cost, limits = self.spent.cost(self.endpoint), self.endpoint
        if limits.max_cost is not None and cost is not None and cost >= limits.max_cost:
            return f"reached max_cost {limits.max_cost:g}"
        if limits.max_total_tokens is not None and self.spent.tokens >= limits.max_total_tokens:
            return f"reached max_total_tokens {limits.max_total_tokens}"
        return ""

    async def respond(self, prompt: str) -> Response:
        """The answer to one prompt, after as many attempts as it takes and may."""
        used = Spent()
        for attempt in itertools.count():
            try:
                text, cut = await self.attempt(prompt, used)
            except _Failed as failed:
                if failed.again and attempt < self.endpoint.retries:
                    wait = _wait(attempt) if failed.wait is None else failed.wait
                    await asyncio.sleep(wait)
                    continue
                self.failed_in_a_row += failed.again or failed.cut
                if self.failed_in_a_row >= _HOPELESS:
                    raise OnepassError(
                        f"{self.endpoint.url}: {self.failed_in_a_row} prompts in a row had no "
                        f"answer after {attempt + 1} attempts each, the last because: {failed}"
                    ) from None
                tokens = (used.prompt_tokens, used.completion_tokens)
                return Response(None, str(failed), failed.cut, *tokens)
            self.failed_in_a_row = 0
            return Response(text, "", cut, used.prompt_tokens, used.completion_tokens)
        raise AssertionError("unreachable")

    async def attempt(self, prompt: str, used: Spent) -> tuple[str, bool]:
        """The text that one request gives, and whether it was cut off.

        Raises `_Failed`, or `OnepassError` for what would be so for all.
        """
        openai = self.openai
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                raw = await self.client.chat.completions.with_raw_response.create(
                    model=self.endpoint.model,
                    messages=[{"role": "user", "content": whole(prompt)}],
                    temperature=0.0,
                    timeout=self.endpoint.timeout,
                    **self.fields,
                )
        except (TimeoutError, openai.APITimeoutError):
            raise _Failed(f"no answer within {self.endpoint.timeout:g} s") from None
        except openai.APIStatusError as error:
            self.heard = True
            await self.refuse(error)
            raise self.failure(error) from None
        except openai.APIConnectionError as error:
            told = self.told(str(error.__cause__ or error))
            if not self.heard and _nobody_there(error):
                raise OnepassError(
                    f"nothing answers at {self.endpoint.url} ({told}); "
                    "start the server, or give the address it listens at"
                ) from None
            raise _Failed(f"the connection failed ({told})") from None
        self.heard = True
        body = raw.http_response.content
        tokens = reply.usage(body, prompt)
        for tally in (used, self.spent):
            tally.prompt_tokens += tokens[0]
            tally.completion_tokens += tokens[1]
        cut = reply.was_cut(body)
        try:
            return reply.content(body), cut
        except ValueError as error:
            if cut:
                raise _Failed(
                    f"cut off at {self.fields['max_tokens']} tokens before any text; allow more",
                    again=False,
                    cut=True,
                ) from None
            raise _Failed(f"the server's answer is none: {self.told(str(error))}") from None

    def failure(self, error: Any) -> _Failed:
        """What an error status means for this one prompt."""
        reason = f"the server says {error.status_code}: {self.told(reply.message(error))}"
        again = error.status_code in (408, 409, 429) or error.status_code >= 500
        wait = reply.told_wait(error.response.headers.get("retry-after"))
        if wait is not None and wait > _LONGEST_TOLD_WAIT:
            return _Failed(f"{reason} (and to wait {wait:.0f} s)", again=False)
        return _Failed(reason, again, wait)

    async def refuse(self, error: Any) -> None:
        """Raise an `OnepassError` for a status that every prompt would get."""
        message = self.told(reply.message(error))
        if error.status_code in (401, 403):
            have = "the key in" if self.endpoint.key else "no key; put one into the variable"
            raise OnepassError(
                f"{self.endpoint.url} refuses {have} {KEY} ({error.status_code}: {message})"
            ) from None
        if error.code == "insufficient_quota":
            raise OnepassError(f"{self.endpoint.url}: no credit is left ({message})") from None
        if error.status_code in (404, 405) or error.code == "model_not_found":
            known = await self.models()
            if known and self.endpoint.model not in known:
                raise OnepassError(
                    f"{self.endpoint.url} has no model {self.endpoint.model!r}; it has "
                    f"{', '.join(known)}"
                ) from None
            raise OnepassError(
                f"{self.endpoint.url} is not the address of an OpenAI-compatible server "
                f"({error.status_code}: {message}); it mostly ends in /v1"
            ) from None

    async def models(self) -> list[str]:
        """The names that the server has models by; none if it does not tell."""
        with suppress(self.openai.OpenAIError, TimeoutError, ValueError, KeyError, TypeError):
            async with asyncio.timeout(self.endpoint.timeout):
                raw = await self.client.models.with_raw_response.list()
            return [str(model["id"]) for model in json.loads(raw.http_response.content)["data"]]
        return []

    def told(self, message: str) -> str:
        """A server's words, in one short line of printable letters and without the key."""
        if self.endpoint.key:
            message = message.replace(self.endpoint.key, "***")
        plain = "".join(letter if letter.isprintable() else " " for letter in message)
        message = " ".join(plain.split())
        return f"{message[:_SHOWN]}…" if len(message) > _SHOWN else message


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


def _wait(attempt: int) -> float:
    """Seconds before the next attempt: doubling, and spread so that not all come at once."""
    return min(_FIRST_WAIT * 2.0**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.0)


def _nobody_there(error: BaseException) -> bool:
    """Whether not even a connection came about. The package has no error of its own for that."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
