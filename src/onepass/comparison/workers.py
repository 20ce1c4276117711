"""Processes that do jobs side by side, one torch thread each.

On few cores two processes of one thread are faster than one of two. A backend is any function
like `in_processes`: from jobs to events, as they come; a cluster's would look the same.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path

from onepass.comparison.cells import Job
from onepass.comparison.job import do_job
from onepass.comparison.recipe import Recipe
from onepass.core.errors import OnepassError, print_as_notes
from onepass.model.progress import telling

_POSIX = hasattr(signal, "pthread_sigmask")
_PATIENCE = 30.0  # seconds for a worker to save its state after Ctrl-C
_HEARTBEAT = 10.0  # seconds without an event after which one says that work goes on
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",  # idle threads must not spin on a core another worker needs
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Started:
    job: Job


@dataclass(frozen=True)
class Progressed:
    """So many more outputs were generated; 0: nothing new, but the workers are busy."""

    outputs: int


@dataclass(frozen=True)
class Trained:
    """What the job learns is at step `done` of `total`; `note` has the loss."""

    job: Job
    done: int
    total: int
    note: str


@dataclass(frozen=True)
class Finished:
    """`cells` of the job are stored; fewer than it has if another process had them."""

    job: Job
    cells: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Failed:
    """The job raised; `message` is for its user, `details` has the traceback of a bug."""

    job: Job
    message: str
    details: str


Event = Started | Progressed | Trained | Finished | Failed
Events = Generator[Event, None, None]
Backend = Callable[[Sequence[Job], Recipe, Path], Events]


def attempt(
    job: Job, recipe: Recipe, folder: Path, on_output: Callable[[int], None]
) -> Finished | Failed:
    """Do a job; whatever it raises, save Ctrl-C, becomes an event, so that others go on."""
    try:
        tally = do_job(job, recipe, folder, on_output)
    except OnepassError as error:
        return Failed(job, str(error), str(error))
    except Exception as error:
        return Failed(job, f"{type(error).__name__}: {error}", traceback.format_exc())
    return Finished(job, tally.cells, tally.tokens, tally.seconds)


def in_this_process(jobs: Sequence[Job], recipe: Recipe, folder: Path) -> Events:
    """One job after the other, here: for debugging and for small recipes."""
    for job in jobs:
        yield Started(job)
        yield attempt(job, recipe, folder, lambda count: None)


def in_processes(count: int) -> Backend:
    """`count` workers, each of which takes the next job as soon as it is free.

    Ctrl-C, or closing the iterator, lets each worker save the state of its training and ends it.
    """

    def backend(jobs: Sequence[Job], recipe: Recipe, folder: Path) -> Events:
        waiting = list(reversed(jobs))
        context = multiprocessing.get_context("spawn")
        workers: list[_Worker] = []
        try:
            for _ in range(min(count, len(jobs))):
                workers.append(_Worker.start(context, recipe, folder))
                yield workers[-1].give(waiting.pop())
            while busy := [worker for worker in workers if worker.job]:
                ready = wait([worker.pipe for worker in busy], _HEARTBEAT)
                if not ready:
                    yield Progressed(0)
                for pipe in ready:
                    worker = next(worker for worker in busy if worker.pipe is pipe)
                    event = worker.receive()
                    yield event
                    if isinstance(event, Progressed | Trained):
                        continue
                    worker.job = None
                    if waiting:
                        if not worker.process.is_alive():
                            workers.remove(worker)
                            worker = _Worker.start(context, recipe, folder)
                            workers.append(worker)
                        yield worker.give(waiting.pop())
        finally:
            _stop(workers)

    return backend


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    pipe: "Connection[Job | None, Event]" = field(repr=False)
    job: Job | None = None

    @staticmethod
    def start(context: SpawnContext, recipe: Recipe, folder: Path) -> "_Worker":
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, recipe, folder), daemon=True)
        with _environment(_ENVIRONMENT), _held_back():
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def give(self, job: Job) -> Started:
        self.job = job
        with suppress(OSError):  # `receive` reports a worker that died
            self.pipe.send(job)
        return Started(job)

    def receive(self) -> Event:
        assert self.job is not None
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(1)
            code = self.process.exitcode
            why = f"its worker process ended with {code}"
            if code == -signal.SIGKILL:
                why += " (killed; most likely memory ran out, try fewer --workers)"
            return Failed(self.job, why, why)


def _stop(workers: Sequence[_Worker]) -> None:
    """Interrupt those at work, dismiss the others, wait for all."""
    for worker in workers:
        with suppress(OSError, ValueError):
            if worker.job is None:
                worker.pipe.send(None)
            elif worker.process.pid and worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGINT)
    try:
        for worker in workers:
            worker.process.join(_PATIENCE)
    finally:  # also after a second Ctrl-C
        for worker in workers:
            worker.process.kill()
            worker.pipe.close()


def _serve(
    pipe: "Connection[Event, Job | None]", recipe: Recipe, folder: Path
) -> None:  # pragma: no cover  (in a process of its own)
    """Do jobs until None comes or the parent is gone."""
    # Ctrl-C in a terminal goes to the whole process group. In a group of its own a worker gets it
    # from its parent alone, once, and can save its state undisturbed.
    if _POSIX:
        os.setpgrp()
    print_as_notes()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        if _POSIX:  # here is the first place where it can be answered
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while (job := pipe.recv()) is not None:
            with telling(partial(_send_step, pipe, job)):
                done = attempt(job, recipe, folder, lambda count: pipe.send(Progressed(count)))
            pipe.send(done)
    except (KeyboardInterrupt, EOFError, OSError):
        return


def _send_step(
    pipe: "Connection[Event, Job | None]", job: Job, done: int, total: int, note: str
) -> None:  # pragma: no cover
    pipe.send(Trained(job, done, total, note))


def _die_with_parent() -> None:  # pragma: no cover
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@contextmanager
def _held_back() -> Iterator[None]:
    """Ctrl-C does not reach a process being started until it asks for it; none is lost."""
    if not _POSIX:
        yield
        return
    resource_tracker.ensure_running()  # which would lift the block if it came in between
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for a process that is just being started: torch reads them as it loads."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
