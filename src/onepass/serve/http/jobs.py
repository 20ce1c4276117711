"""The queue before a backend: so many answers at a time, so many waiting, each for so long."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor

from onepass.core.errors import OnepassError
from onepass.serve.http.backend import Backend, Job, Reply
from onepass.serve.stop import Stop, Stopped

_FIRST_GUESS = 1.0  # seconds that an answer takes, before any has been timed
_WEIGHT = 0.2  # of the newest answer in the mean of their seconds


class Busy(Exception):
    """There are as many waiting as may; try again after `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Late(Exception):
    """An answer took longer than it may."""


class Ending(Exception):
    """The server is shutting down."""


class Failed(Exception):
    """The backend has ended, and with it all answers."""


class Answering:
    """An answer that waits, or is being given: `pieces` of its text, then its `reply`."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.stop = Stop()
        self.why: Exception = Stopped()
        self.reply: Reply | None = None
        self._events: asyncio.Queue[str | Reply | BaseException] = asyncio.Queue()

    async def pieces(self) -> AsyncIterator[str]:
        """The text as it is generated.

        Raises:
            OnepassError: the job cannot be done.
            Late, Ending, Failed: it was stopped.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, BaseException):
                raise self.why if isinstance(event, Stopped) else event
            if isinstance(event, Reply):
                self.reply = event
                return
            yield event

    def put(self, event: str | Reply | BaseException) -> None:
        self._events.put_nowait(event)

    def end(self, why: Exception) -> None:
        """Stop it, for a reason that its reader is told."""
        self.why = why
        self.stop.set()


class Jobs:
    """Gives answers in threads of its own, in the order in which they were asked for.

    waiting: the most jobs that may wait. seconds: the longest that an answer may take.
    All methods are called in the event loop.
    """

    def __init__(self, backend: Backend, waiting: int, seconds: float) -> None:
        self._backend, self._waiting, self._seconds = backend, waiting, seconds
        self._threads = ThreadPoolExecutor(backend.at_once, "answer")
        self._now: dict[Answering, Future[None]] = {}
        self._mean = _FIRST_GUESS
        self._ended = False

    @property
    def running(self) -> int:
        return min(len(self._now), self._backend.at_once)

    @property
    def waiting(self) -> int:
        return len(self._now) - self.running

    def start(self, job: Job) -> Answering:
        """Take on a job.

        Raises:
            Busy: too many are waiting.
            Ending: the server is shutting down.
        """
        if self._ended:
            raise Ending
        if len(self._now) >= self._backend.at_once + self._waiting:
            ahead = self._mean * len(self._now) / self._backend.at_once
            raise Busy(math.ceil(min(max(ahead, 1.0), 60.0)))
        answering, loop = Answering(job), asyncio.get_running_loop()
        self._now[answering] = self._threads.submit(self._work, answering, loop)
        return answering

    def drop(self, answering: Answering) -> None:
        """Stop an answer that nobody waits for any more."""
        answering.stop.set()
        if answering in self._now and self._now[answering].cancel():
            del self._now[answering]

    def end(self) -> None:
        """Cut all answers short, because the server is shutting down."""
        self._ended = True
        for answering in [*self._now]:
            answering.end(Ending())
            if self._now[answering].cancel():
                answering.put(Stopped())
                del self._now[answering]

    async def close(self) -> None:
        """Cut all answers short, and wait for the threads that were giving them."""
        self.end()
        await asyncio.to_thread(self._threads.shutdown)

    def _work(self, answering: Answering, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: give an answer."""
        began = time.monotonic()

        def say(event: str | Reply | BaseException) -> None:
            loop.call_soon_threadsafe(answering.put, event)

        timer: list[asyncio.TimerHandle] = []
        loop.call_soon_threadsafe(
            lambda: timer.append(loop.call_later(self._seconds, answering.end, Late()))
        )
        try:
            answering.stop.check()
            end: Reply | BaseException = self._backend.answer(answering.job, say, answering.stop)
        except BaseException as error:  # whatever it is, whoever waits must hear of it
            failed = self._backend.failed and isinstance(error, OnepassError)
            end = Failed(str(error)) if failed else error

        def done() -> None:
            timer[0].cancel()
            self._mean += _WEIGHT * (time.monotonic() - began - self._mean)
            self._now.pop(answering, None)
            answering.put(end)

        loop.call_soon_threadsafe(done)
