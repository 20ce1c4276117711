"""A device set, run by llama.cpp: compositions chosen per request, nothing loaded twice.

    with Engine("device") as engine:
        print(engine.run("sum-es", "Ana: Tea at five?\\nBen: Yes!").text)

Each request names the scale of every adapter, so that another composition needs no reload. The
most recent combinations of scales, one per slot, keep the prompt that they read last. Activated
compositions share one more slot: what one has read of a conversation, another need not read again.
"""

import math
import os
import threading
import time
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Self

from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.export.manifest import Manifest, PassEntry, base_path, read_set
from onepass.serve.activated import (
    EARLY,
    Activated,
    check_invocations,
    check_start,
    chosen,
    reader,
    to_load,
)
from onepass.serve.answer import Answer, Completion, Reading
from onepass.serve.modes import plan
from onepass.serve.plain import fused_name, plain_files
from onepass.serve.process import EngineProcess
from onepass.serve.slots import Slots
from onepass.serve.stop import Stop
from onepass.serve.stream import OnText, finite, gather, stripped
from onepass.tasks.prompt import fit_prompt
from onepass.tasks.task import Task

CONTEXT = 4096  # tokens, the default's upper bound: the context of a real base costs much memory
SLOTS = 256  # llama.cpp's upper bound
_FIELDS = [
    "content", "tokens", "tokens_predicted", "tokens_evaluated", "timings/cache_n",
    "timings/prompt_ms", "timings/predicted_ms", "stop", "stop_type", "completion_probabilities",
]  # fmt: skip
"""Of the reply to a completion; by default llama.cpp repeats the prompt and all settings too."""


class Engine:
    """llama.cpp with a device set loaded. Close it, or use it as a context manager.

    `manifest` is the set's; `adapters` are the names by which scales are given, in their order.

    Requests from several threads are answered in turn; those with the same scales side by side, as
    many as there are slots. Ctrl-C, an error in `on_text`, or a `Stop`, ends llama.cpp's work on a
    request with `on_text`; one without is generated to its end, and the next with the same scales
    has to wait.

    Args:
        folder: what `onepass pack` or `onepass export --format gguf` wrote.
        base: the base's file, if the set does not hold it and it is not where it was.
        context: limit on the tokens of prompt and answer; by default the base's, at most 4,096.
        slots: how many combinations of scales keep their prompt cache; each costs a context, as
            does the cache that the activated compositions share.
        threads: at most one per core; by default llama.cpp's own choice.
        exact: a 32-bit cache and plain attention, for comparison with PyTorch; slower.
        fused: compositions to run as one adapter each, which is faster; fused here unless the set
            holds them fused, in about the time it takes to read the parts. Activated compositions
            always are.
        check: compare the checksums of all files first.
        cache: whether the common beginning of a slot's last prompt and the next is read only once.
        timeout: seconds to wait for an answer, or for the next piece of one.

    Raises:
        OnepassError: an option makes no sense, the set is damaged, there is no room to expand its
            compact files, or llama.cpp cannot load it.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        base: Path | str | None = None,
        context: int | None = None,
        slots: int = 2,
        threads: int | None = None,
        exact: bool = False,
        fused: Collection[str] = (),
        check: bool = True,
        cache: bool = True,
        timeout: float = 600.0,
    ) -> None:
        folder = Path(folder)
        self.manifest: Manifest = read_set(folder, check, base)
        file = base_path(folder, self.manifest.base, base)
        about = self.manifest.base
        self.context = min(about.context, CONTEXT) if context is None else context
        if not 1 <= self.context <= about.context:
            raise OnepassError(
                f"context {context}: expected 1 to {about.context} tokens, as base {about.name} has"
            )
        if not 1 <= slots <= SLOTS:
            raise OnepassError(f"slots {slots}: expected 1 to {SLOTS}")
        if not 0 < timeout <= threading.TIMEOUT_MAX:
            raise OnepassError(f"timeout {timeout}: expected a positive number of seconds")
        cores = os.cpu_count() or 1
        if threads is not None and not 1 <= threads <= cores:
            raise OnepassError(f"threads {threads}: expected 1 to {cores}, this machine's cores")
        self._cache = cache
        self._slots = Slots(slots)
        activated = to_load(self.manifest)
        self._activated = {each.name: each for each in activated}
        self._finite: set[tuple[float, ...]] = set()  # scales that gave finite numbers before
        with plain_files(folder, self.manifest, fused, activated) as adapters:
            self.adapters = list(adapters)
            paths = [str(path) for path in adapters.values()]
            settings = {
                "model": str(file),
                "adapters": paths,
                "context": self.context,
                "slots": slots + bool(activated),
                "threads": threads,
                "exact": exact,
                "whole_window": bool(activated),
            }
            self._process = EngineProcess(settings, timeout)
        try:
            self._check_loaded(paths)
        except OnepassError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the engine's process; may be called again."""
        self._process.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def closed(self) -> bool:
        """Whether the engine was closed, or has failed for good."""
        return self._process.closed

    def peak_memory(self) -> int | None:
        """The most memory the engine has used so far, in bytes; None if unknown."""
        return self._process.peak_memory()

    def run(
        self,
        composition: str,
        text: str,
        mode: str = "composed",
        max_new_tokens: int | None = None,
        on_text: OnText | None = None,
    ) -> Answer:
        """The greedy answer of a composition to a text, in one of `modes.MODES`.

        A text too long for the context loses its oldest turns; the answer's notice says so.
        max_new_tokens: the longest output of a pass; by default its task's, or else 128.
        on_text: called with the last pass's text, whole characters at a time, as it is generated;
        the pieces together are the answer's text.

        Raises:
            OnepassError: there is no such composition or mode, the text is empty, there is no room
                for the answer, or the engine fails.
        """
        return self.run_passes(self.passes(composition, mode), text, max_new_tokens, on_text)

    def run_passes(
        self,
        passes: Sequence[PassEntry],
        text: str,
        max_new_tokens: int | None = None,
        on_text: OnText | None = None,
        stop: Stop | None = None,
    ) -> Answer:
        """As `run`, of what `passes` or `adapter_pass` gave; `Stopped` once `stop` is set."""
        _check_text(text)
        began = time.perf_counter()
        done: list[Completion] = []
        notices = []
        for number, pass_ in enumerate(passes, start=1):
            longest = pass_.task.longest(max_new_tokens)
            prompt, notice = self.fitted(pass_, text, longest)
            notices += [notice] if notice else []
            # All passes are streamed, since llama.cpp only stops work on a stream.
            take = on_text and (stripped(on_text) if number == len(passes) else lambda piece: None)
            aside = number > 1  # the conversation's cache is not for the text of a later step
            done.append(
                self.complete(prompt, pass_.scales, longest, on_text=take, aside=aside, stop=stop)
            )
            text = done[-1].text.strip()
        return Answer(
            text,
            sum(len(each.ids) for each in done),
            sum(each.prompt_tokens for each in done),
            sum(each.cached_tokens for each in done),
            time.perf_counter() - began,
            sum(each.read_seconds for each in done),
            sum(each.write_seconds for each in done),
            time.perf_counter() - began - done[-1].write_seconds,
            "; ".join(notices),
            done[-1].cut,
        )

    def read(
        self, text: str, composition: str | None = None, max_new_tokens: int | None = None
    ) -> Reading:
        """Read a text ahead, for whichever activated composition is run on it next.

        To be called again as the text grows: only what is new is read. A text too long for the
        context loses its oldest turns, as in `run`, and is then read anew.
        composition: the activated one whose prompts the text will stand in, where they begin
        differently (with a system message); by default the first. max_new_tokens: the longest
        answer to come, for which room is left; by default its task's.

        Raises:
            OnepassError: the set has no such composition, the text is empty, or the engine fails.
        """
        began = time.perf_counter()
        _check_text(text)
        (pass_, *_) = self.passes(reader(self.manifest, composition).name)
        prompt, notice = self.fitted(pass_, text, pass_.task.longest(max_new_tokens))
        activation = self.manifest.activation(pass_.task)
        ids = prompt[: activation.start(prompt)] if activation else prompt
        if self._slots.holds(ids):
            return Reading(len(ids), len(ids), time.perf_counter() - began, notice)
        (name,) = pass_.scales
        # Without an invocation in it, llama.cpp reads a prompt with the bare base; with no adapter
        # at all it would forget what it has read.
        apart = self._activated[name].start(ids) is None
        cached = self._read_only(ids if apart else prompt, {name: 1.0})
        return Reading(len(ids), cached, time.perf_counter() - began, notice)

    def complete(
        self,
        prompt: Sequence[int],
        scales: Mapping[str, float],
        max_new_tokens: int,
        to_the_end: bool = False,
        on_text: OnText | None = None,
        aside: bool = False,
        stop: Stop | None = None,
    ) -> Completion:
        """The greedy answer to a prompt of token ids, with these scales by name of adapter.

        to_the_end: ignore tokens that end an answer, for measurements of speed. on_text: called
        with the text as it is generated; the ids inside a character are then `UNKNOWN`. aside:
        leave the cache that activated adapters share as it is. stop: ends it, with `Stopped`, if
        there is an `on_text`.
        """
        _positive("max_new_tokens", max_new_tokens)
        ending = () if to_the_end else self.manifest.prompt.stop
        reply = self._ask(
            prompt,
            scales,
            on_text and partial(gather, stop=ending, on_text=on_text),
            n_predict=max_new_tokens,
            return_tokens=True,
            ignore_eos=to_the_end,
            response_fields=_FIELDS,
            aside=aside,
            stop=stop,
        )
        ids, text = list(reply["tokens"]), str(reply["content"])
        counts = int(reply["tokens_evaluated"]), int(reply["timings/cache_n"])
        seconds = reply["timings/prompt_ms"] / 1000, reply["timings/predicted_ms"] / 1000
        ends = [place for place, token in enumerate(ids) if token in ending]
        if ends and (ends[0] + 1 < len(ids) or reply["stop_type"] != "eos"):
            # llama.cpp does not know it as a stop token.
            ids = ids[: ends[0] + 1]
            text = self._process.ask("/detokenize", {"tokens": ids[:-1]})["content"]
        elif on_text and not ends and len(ids) < reply["tokens_predicted"]:
            # It ends inside a character, of which the stream has no text.
            whole = self.complete(prompt, scales, max_new_tokens, to_the_end, aside=aside)
            on_text(whole.text.removeprefix(text))
            ids, text = whole.ids, whole.text
        cut = not ends and reply["stop_type"] == "limit"
        return Completion(ids, text, *counts, *seconds, cut)

    def log_probabilities(
        self, prompt: Sequence[int], scales: Mapping[str, float], top: int | None = None
    ) -> dict[int, float]:
        """The natural log-probability of each next token: of the `top` likeliest, or of all.

        Raises:
            OnepassError: an adapter is unknown, the numbers overflow, or the engine fails.
        """
        every = self.manifest.base.vocabulary
        count = every if top is None else min(_positive("top", top), every)
        # It returns none if the answer ends at once: force an ordinary token.
        word = self.tokenize("a")[0]
        reply = self._ask(
            prompt,
            scales,
            n_predict=1,
            n_probs=count,
            post_sampling_probs=False,
            logit_bias=[[word, 1e6]],
        )
        (first,) = reply["completion_probabilities"]
        return {int(row["id"]): float(row["logprob"]) for row in first["top_logprobs"]}

    def tokenize(self, text: str, first: bool = False, control: bool = False) -> list[int]:
        """The ids of a text, normalised as the base's own tokenizer does.

        first: with the token that begins every text, if the base has one. control: control tokens
        are obeyed, not taken for plain text.
        """
        form = self.manifest.prompt.normalization
        text = unicodedata.normalize(form, text) if form else text
        body = {"content": text, "add_special": first, "parse_special": control}
        return [int(token) for token in self._process.ask("/tokenize", body)["tokens"]]

    def templated(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation in the chat template of the base's file, by llama.cpp."""
        return str(self._process.ask("/apply-template", {"messages": [*messages]})["prompt"])

    def prompt_ids(self, message: str, system: str = "") -> list[int]:
        """The ids of a user message in its frame, up to where the answer begins."""
        frame = self.manifest.frame(system)
        middle = [token for piece in frame.pieces(message) for token in self.tokenize(piece)]
        return [*frame.before, *middle, *frame.after]

    def passes(self, composition: str, mode: str = "composed") -> list[PassEntry]:
        """What `run` does with a text, in turn, with the scales of this engine's adapters."""
        passes = plan(self.manifest, composition, mode)
        activated = [*self._activated.values()]
        passes = [chosen(activated, self.manifest, pass_) for pass_ in passes]
        name = fused_name(composition)
        if mode == "composed" and name in self.adapters and len(passes) == 1:
            return [passes[0].model_copy(update={"scales": {name: 1.0}})]
        return passes

    def adapter_pass(self, task: Task, adapter: str) -> PassEntry:
        """The pass that does a single task with its adapter alone."""
        pass_ = PassEntry(task=task, scales={adapter: 1.0})
        return chosen([*self._activated.values()], self.manifest, pass_)

    def fitted(self, pass_: PassEntry, text: str, max_new_tokens: int) -> tuple[list[int], str]:
        """The ids of a pass's prompt for a text, and a notice of what did not fit the context.

        Raises:
            OnepassError: there is no room.
        """
        room = self.context - _positive("max_new_tokens", max_new_tokens)
        if room < 1:
            raise OnepassError(
                f"max_new_tokens is {max_new_tokens}, but the context is {self.context} tokens; "
                "allow fewer"
            )
        ids = cache(partial(self.prompt_ids, system=pass_.task.system))
        fitted = fit_prompt(pass_.task, text, lambda message: len(ids(message)), room)
        prompt = ids(fitted.prompt)
        if activation := self.manifest.activation(pass_.task):
            activation.start(prompt)
        return prompt, fitted.notice

    def _ask(
        self,
        prompt: Sequence[int],
        scales: Mapping[str, float],
        read: Callable[[Iterator[Any]], Any] | None = None,
        ahead: bool = False,
        aside: bool = False,
        stop: Stop | None = None,
        **more: Any,
    ) -> Any:
        """The reply to a request for a completion; `read` turns a stream of events into one.

        ahead: whether an activated adapter's invocation may be missing from the prompt. aside,
        stop: as in `complete`.
        """
        stop = stop or Stop()
        strangers = sorted(scales.keys() - set(self.adapters))
        if strangers:
            raise unknown("adapter of this set", strangers[0], self.adapters)
        vector = tuple(float(scales.get(name, 0.0)) for name in self.adapters)
        for name, scale in zip(self.adapters, vector, strict=True):
            if not math.isfinite(scale):
                raise OnepassError(f"the scale of adapter {name!r} is {scale}; it must be finite")
        checked = partial(finite, scales=scales)
        # Probabilities cost time for each token, so only until these scales gave finite ones.
        probe = {} if vector in self._finite else {"n_probs": 1, "post_sampling_probs": True}
        turn = self._slots.taken(
            prompt, vector, self._active(scales), ahead=ahead, aside=aside, stop=stop
        )
        with turn as (slot, reuse):
            body = {
                "prompt": list(prompt),
                # All of them: llama.cpp takes an empty list for the scales it started with.
                "lora": [{"id": number, "scale": scale} for number, scale in enumerate(vector)],
                "temperature": 0.0,
                "id_slot": slot,
                "cache_prompt": self._cache and reuse,
                **probe,
                **more,
            }
            if read is None:
                reply = checked(self._process.ask("/completion", body))
            else:
                stream = self._process.stream("/completion", {**body, "stream": True}, stop)
                with closing(stream) as events:
                    reply = read(map(checked, events))
            self._finite.add(vector)
            return reply

    def _active(self, scales: Mapping[str, float]) -> Activated | None:
        """The activated adapter that these scales run, if they do."""
        used = {name: scale for name, scale in scales.items() if scale}
        active = [self._activated[name] for name in used if name in self._activated]
        if active and (len(used) > 1 or min(used.values()) < 0):
            raise OnepassError(
                "llama.cpp runs one activated adapter at a time, at a positive scale; found "
                + ", ".join(f"{name} at {scale:g}" for name, scale in used.items())
            )
        return active[0] if active else None

    def _check_loaded(self, paths: list[str]) -> None:
        """Refuse an engine that would mix up adapters, or let them act elsewhere than meant."""
        reports = self._process.ask("/lora-adapters")
        loaded = [str(each["path"]) for each in reports]
        if loaded != paths:
            raise OnepassError(
                f"llama.cpp has loaded the adapters in another order, {', '.join(loaded)}; "
                "their scales would be mixed up"
            )
        check_invocations(dict(zip(self.adapters, reports, strict=True)), self._activated)
        for adapter in [*self._activated.values()][:1]:
            # An engine of another version may begin elsewhere; what it reuses says where.
            word = next(t for t in map(self._word, ascii_lowercase) if t not in adapter.invocation)
            probe = [*[word] * 2 * EARLY, *adapter.invocation]
            # Of the cache even if it is not to be used afterwards: `cache_prompt` overrides that.
            counts = [
                self._read_only(probe, {adapter.name: 1.0}, cache_prompt=True) for _ in range(2)
            ]
            check_start(adapter, probe, counts[1])

    def _word(self, text: str) -> int:
        return self.tokenize(text)[0]

    def _read_only(self, prompt: Sequence[int], scales: Mapping[str, float], **more: Any) -> int:
        """Read a prompt, generating nothing; how many of its tokens were cached."""
        reply = self._ask(prompt, scales, ahead=True, n_predict=0, response_fields=_FIELDS, **more)
        return int(reply["timings/cache_n"])


def _check_text(text: str) -> None:
    if not text.strip():
        raise OnepassError(f"text is {text!r}, which is empty; give a text")


def _positive(name: str, number: int) -> int:
    if number < 1:
        raise OnepassError(f"{name} is {number}; it must be positive")
    return number
