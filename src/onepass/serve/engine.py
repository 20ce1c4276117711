"""A device set, run by llama.cpp: compositions chosen per request, nothing loaded twice.

    with Engine("device") as engine:
        print(engine.run("sum-es", "Ana: Tea at five?\\nBen: Yes!").text)

Each request names the scale of every adapter, so that another composition costs no reload. Each
combination of scales keeps a slot of its own with the prompt it read last, as far as slots go.
"""

import math
import os
import threading
import time
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from onepass.core.errors import OnepassError
from onepass.core.files import inside
from onepass.core.registry import unknown
from onepass.export.manifest import MANIFEST, Manifest, PassEntry, read_set
from onepass.serve.answer import Answer, Completion
from onepass.serve.modes import plan
from onepass.serve.plain import fused_name, plain_files
from onepass.serve.process import EngineProcess
from onepass.serve.shapes import check_adapters, check_shapes
from onepass.serve.stream import UNTOLD, OnText, finite, gather, stripped
from onepass.tasks.prompt import fit_prompt

CONTEXT = 4096  # by default at most so many tokens, for a real base's context costs much memory
SLOTS = 256  # llama.cpp's most
_FIELDS = [
    "content", "tokens", "tokens_predicted", "tokens_evaluated", "timings/cache_n", "stop",
    "stop_type", "completion_probabilities",
]  # fmt: skip
"""Of the reply to a completion; llama.cpp would repeat the prompt and all settings besides."""


class Engine:
    """llama.cpp with a device set loaded. Close it, or use it as a context manager.

    `manifest` is the set's, and `adapters` are the names that scales are given by, in their order.

    Requests from several threads are answered one after another. What interrupts one with `on_text`
    (Ctrl-C, or an error in it) ends llama.cpp's work on it, and the next is answered as ever; one
    without is generated to its end all the same, and the next with its scales has to wait.

    Args:
        folder: what `onepass pack` or `onepass export --format gguf` wrote.
        context: most tokens of prompt and answer together; by default the base's, 4,096 at most.
        slots: how many combinations of scales keep their prompt cache; each costs a context.
        threads: of the engine, as many as the machine has cores at most; by default its own choice.
        exact: a 32-bit cache and plain attention, for comparison with PyTorch; slower.
        fused: compositions to run as one adapter each, which is faster: what the set holds so, or
            is put together in about the time it takes to read the parts.
        check: compare the checksums of all files first.
        cache: whether a prompt that begins as the slot's last one is read from there on only.
        timeout: seconds to wait for an answer, or for the next piece of one.

    Raises:
        OnepassError: the set is damaged, there is no room to expand its compact files, or llama.cpp
            cannot load it.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
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
        self.manifest: Manifest = read_set(folder, check)
        base = self.manifest.base
        self.context = min(base.context, CONTEXT) if context is None else context
        if not 1 <= self.context <= base.context:
            raise OnepassError(
                f"context {context}: expected 1 to {base.context} tokens, as base {base.name} has"
            )
        if not 1 <= slots <= SLOTS:
            raise OnepassError(f"slots {slots}: expected 1 to {SLOTS}")
        if not 0 < timeout <= threading.TIMEOUT_MAX:
            raise OnepassError(f"timeout {timeout}: expected a positive number of seconds")
        cores = os.cpu_count() or 1
        if threads is not None and not 1 <= threads <= cores:
            raise OnepassError(f"threads {threads}: expected 1 to {cores}, this machine's cores")
        check_adapters(folder, self.manifest)
        self._cache = cache
        self._slots: dict[tuple[float, ...], int] = {}
        self._slot_count = slots
        self._sound: set[tuple[float, ...]] = set()  # scales that have been seen to give numbers
        self._busy = threading.RLock()  # `on_text` may ask something itself
        with plain_files(folder, self.manifest, fused) as adapters:
            self.adapters = list(adapters)
            paths = [str(path) for path in adapters.values()]
            settings = {
                "model": str(inside(folder / MANIFEST, base.path)),
                "adapters": paths,
                "context": self.context,
                "slots": slots,
                "threads": threads,
                "exact": exact,
            }
            try:
                self._process = EngineProcess(settings, timeout)
            except OnepassError:
                check_shapes(folder, self.manifest)  # a file that is to blame is told of by name
                raise
        try:
            self._check_order(paths)
        except OnepassError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the engine's process; more than once does no harm."""
        self._process.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def closed(self) -> bool:
        """Whether the engine was closed, or has failed for good."""
        return self._process.closed

    def peak_memory(self) -> int | None:
        """The most memory the engine has used so far, in bytes; None where no one tells."""
        return self._process.peak_memory()

    def run(
        self,
        composition: str,
        text: str,
        mode: str = "composed",
        max_new_tokens: int = 128,
        on_text: OnText | None = None,
    ) -> Answer:
        """Do a composition's task to a text, in one of `modes.MODES`, greedily.

        A text too long for the context loses its oldest turns, which the answer's notice tells.
        on_text: is given the last pass's text, whole characters at a time, as it is generated; the
        pieces together are the answer's text.

        Raises:
            OnepassError: there is no such composition or mode, the text is empty, there is no room
                for the answer, or the engine fails.
        """
        if not text.strip():
            raise OnepassError(f"text is {text!r}, which is empty; give a text")
        began = time.perf_counter()
        done: list[Completion] = []
        notices = []
        passes = self._plan(composition, mode)
        for number, pass_ in enumerate(passes, start=1):
            prompt, notice = self.fitted(pass_, text, max_new_tokens)
            notices += [notice] if notice else []
            take = on_text and (stripped(on_text) if number == len(passes) else _unheard)
            done.append(self._complete(prompt, pass_.scales, max_new_tokens, on_text=take))
            text = done[-1].text.strip()
        return Answer(
            text,
            sum(len(each.ids) for each in done),
            sum(each.prompt_tokens for each in done),
            sum(each.cached_tokens for each in done),
            time.perf_counter() - began,
            "; ".join(notices),
        )

    def complete(
        self,
        prompt: Sequence[int],
        scales: Mapping[str, float],
        max_new_tokens: int,
        to_the_end: bool = False,
        on_text: OnText | None = None,
    ) -> Completion:
        """The greedy answer to a prompt of token ids, with these scales by name of adapter.

        to_the_end: go on behind tokens that end an answer, as measurements of speed want it.
        on_text: is given the text, whole characters at a time, as it is generated. Where a
        character took several tokens, all is generated once more in the end, for their ids.
        """
        _positive("max_new_tokens", max_new_tokens)
        done = self._complete(prompt, scales, max_new_tokens, to_the_end, on_text)
        if UNTOLD in done.ids:
            again = self._complete(prompt, scales, max_new_tokens, to_the_end)
            done = replace(done, ids=again.ids)
        return done

    def _complete(
        self,
        prompt: Sequence[int],
        scales: Mapping[str, float],
        max_new_tokens: int,
        to_the_end: bool = False,
        on_text: OnText | None = None,
    ) -> Completion:
        """As `complete`, but ids may be `UNTOLD` with `on_text`."""
        stop = () if to_the_end else self.manifest.prompt.stop
        reply = self._ask(
            prompt,
            scales,
            on_text and partial(gather, stop=stop, on_text=on_text),
            n_predict=max_new_tokens,
            return_tokens=True,
            ignore_eos=to_the_end,
            response_fields=_FIELDS,
        )
        ids, text = list(reply["tokens"]), str(reply["content"])
        counts = int(reply["tokens_evaluated"]), int(reply["timings/cache_n"])
        ends = [place for place, token in enumerate(ids) if token in stop]
        if ends and (ends[0] + 1 < len(ids) or reply["stop_type"] != "eos"):
            # A stop token that the engine does not know as one.
            ids = ids[: ends[0] + 1]
            text = self._process.ask("/detokenize", {"tokens": ids[:-1]})["content"]
        elif on_text and not ends and len(ids) < reply["tokens_predicted"]:
            # It ends inside a character, and the stream lacks the text since the last whole one.
            whole = self._complete(prompt, scales, max_new_tokens, to_the_end)
            on_text(whole.text.removeprefix(text))
            ids, text = whole.ids, whole.text
        return Completion(ids, text, *counts)

    def log_probabilities(
        self, prompt: Sequence[int], scales: Mapping[str, float], top: int | None = None
    ) -> dict[int, float]:
        """The natural log-probability of each next token, of the `top` likeliest or of all.

        Raises:
            OnepassError: an adapter is unknown, the numbers overflow, or the engine fails.
        """
        every = self.manifest.base.vocabulary
        count = every if top is None else min(_positive("top", top), every)
        # The engine tells nothing where the answer ends at once: have it say an ordinary token.
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

    def tokenize(self, text: str) -> list[int]:
        """The ids of a plain text, in the Unicode form that the base's own tokenizer uses."""
        form = self.manifest.prompt.normalization
        text = unicodedata.normalize(form, text) if form else text
        body = {"content": text, "add_special": False, "parse_special": False}
        return [int(token) for token in self._process.ask("/tokenize", body)["tokens"]]

    def prompt_ids(self, message: str) -> list[int]:
        """The ids of a user message in its frame, up to where the answer begins."""
        frame = self.manifest.prompt
        middle = [token for piece in frame.pieces(message) for token in self.tokenize(piece)]
        return [*frame.before, *middle, *frame.after]

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
        ids = cache(self.prompt_ids)
        fitted = fit_prompt(pass_.task, text, lambda message: len(ids(message)), room)
        return ids(fitted.prompt), fitted.notice

    def _plan(self, composition: str, mode: str) -> list[PassEntry]:
        passes = plan(self.manifest, composition, mode)
        if mode == "composed" and fused_name(composition) in self.adapters:
            return [passes[0].model_copy(update={"scales": {fused_name(composition): 1.0}})]
        return passes

    def _ask(
        self,
        prompt: Sequence[int],
        scales: Mapping[str, float],
        read: Callable[[Iterator[Any]], Any] | None = None,
        **more: Any,
    ) -> Any:
        """The reply to a request for a completion; `read` makes one of the events of a stream."""
        strangers = sorted(scales.keys() - set(self.adapters))
        if strangers:
            raise unknown("adapter of this set", strangers[0], self.adapters)
        vector = tuple(float(scales.get(name, 0.0)) for name in self.adapters)
        for name, scale in zip(self.adapters, vector, strict=True):
            if not math.isfinite(scale):
                raise OnepassError(f"the scale of adapter {name!r} is {scale}; it must be finite")
        checked = partial(finite, scales=scales)
        with self._busy:
            # To be told it costs time for each token, so only until these scales have done well.
            told = {} if vector in self._sound else {"n_probs": 1, "post_sampling_probs": True}
            body = {
                "prompt": list(prompt),
                # Each named, because llama.cpp takes an empty list for the scales it started with.
                "lora": [{"id": number, "scale": scale} for number, scale in enumerate(vector)],
                "id_slot": self._slot(vector),
                "temperature": 0.0,
                "cache_prompt": self._cache,
                **told,
                **more,
            }
            if read is None:
                reply = checked(self._process.ask("/completion", body))
            else:
                stream = self._process.stream("/completion", {**body, "stream": True})
                with closing(stream) as events:
                    reply = read(map(checked, events))
            self._sound.add(vector)
            return reply

    def _slot(self, vector: tuple[float, ...]) -> int:
        """The slot of these scales: theirs, a free one, or that of those asked for longest ago."""
        slot = self._slots.pop(vector, None)
        if slot is None and len(self._slots) < self._slot_count:
            slot = len(self._slots)
        elif slot is None:
            slot = self._slots.pop(next(iter(self._slots)))
        self._slots[vector] = slot
        return slot

    def _check_order(self, paths: list[str]) -> None:
        loaded = [str(each["path"]) for each in self._process.ask("/lora-adapters")]
        if loaded != paths:
            raise OnepassError(
                f"llama.cpp has loaded the adapters in another order, {', '.join(loaded)}; "
                "their scales would be mixed up"
            )


def _unheard(piece: str) -> None:
    """Has a pass streamed only so that it can be interrupted."""


def _positive(name: str, number: int) -> int:
    if number < 1:
        raise OnepassError(f"{name} is {number}; it must be positive")
    return number
