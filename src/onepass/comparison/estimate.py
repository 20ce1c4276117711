"""What the cells that are left would cost, reckoned before anything runs.

Work is counted in floating-point operations, from the number P of the base's parameters and the
tokens that go through it: 2 P for a token that is read or written, 4 P for one trained on (forward,
and backward through a frozen base; Kaplan et al. 2020, arXiv 2001.08361, count 6 where weights get
gradients too). Tokens are counted with the base's tokenizer on a sample of each task.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch

from onepass.adapters.cost import lora_parameters
from onepass.comparison.adapters import missing, training_examples
from onepass.comparison.bench import Plan
from onepass.comparison.cells import Job, jobs_of, seen_examples, tested_examples, trained_examples
from onepass.comparison.materials import split_examples
from onepass.comparison.recipe import Recipe
from onepass.comparison.runs import RUN, Run, load_run
from onepass.core.errors import OnepassError
from onepass.model.chat import prompt_ids, text_ids
from onepass.model.load import load_skeleton, load_tokenizer
from onepass.model.targets import base_shape
from onepass.tasks.example import Example
from onepass.tasks.prompt import build_prompt
from onepass.tasks.task import Task

UTILISATION = 0.3
"""The share of the fastest matrix product that real work is taken to reach."""
_SAMPLE = 20
_TRAINING_COPIES = 4  # of each trained number in a saved state: now, best, two moments
_WIDE, _NARROW = 4, 2  # bytes of a number: in a training's state, in a saved adapter
_METRICS = 8  # columns of scores in a run's file, at most


@dataclass(frozen=True)
class Work:
    """What a row of the plan comes to; numbers are upper bounds, as trainings may stop early."""

    name: str
    cells: int
    trainings: int
    examples: float
    """Seen in training, each as often as it is seen."""
    trained: float
    read: float
    written: float
    """Tokens: trained on, read in prompts, written in outputs."""
    disk: float
    """Bytes that stay."""

    def operations(self, parameters: int) -> float:
        return parameters * (4 * self.trained + 2 * (self.read + self.written))


@dataclass(frozen=True)
class Estimate:
    """The `rows` of a plan, the speed they were reckoned with and what it rests on."""

    rows: list[Work]
    parameters: int
    rate: float
    """Floating-point operations per second and worker."""
    basis: str
    state_bytes: float
    """Of the largest training's state, which goes when it is done; one per worker."""

    def seconds(self, row: Work) -> float:
        return row.operations(self.parameters) / self.rate


def estimate(
    plan: Plan,
    recipe: Recipe,
    folder: Path,
    only: Sequence[str] = (),
    rate: float | None = None,
) -> Estimate:
    """What the jobs of `plan`, and the adapters to be trained before them, would cost.

    `only` is what the plan was made with.
    `rate`: FLOP/s per worker; by default that of the finished runs in `folder`, and where there are
    none `UTILISATION` of what this machine's matrix products reach.
    """
    model = load_skeleton(recipe.base)
    parameters = sum(weight.numel() for weight in model.parameters())
    counter = _Counter(recipe)
    rows = [_adapter_row(recipe, part, counter, model) for part in missing(recipe, only)]
    rows += [_method_row(name, jobs, recipe, counter) for name, jobs in _by_method(plan.jobs)]
    basis = "the rate that was given"
    if rate is None:
        rate, basis = _measured(recipe, folder, counter, parameters) or _machine(recipe)
    rank = recipe.train.rank if recipe.train else 32
    largest = lora_parameters(base_shape(model), rank) if any(r.trainings for r in rows) else 0
    return Estimate(rows, parameters, rate, basis, largest * _TRAINING_COPIES * _WIDE)


class _Counter:
    """Mean tokens and bytes of a task's prompts and targets, from a sample."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._tokenizer = load_tokenizer(recipe.base)
        self._known: dict[str, tuple[float, float, float]] = {}

    def lengths(self, task: str) -> tuple[float, float, float]:
        """Tokens of a prompt, of an output, and bytes of an output, of the task's test examples."""
        if task not in self._known:
            sample = split_examples(self._recipe, task, self._recipe.splits[0])[:_SAMPLE]
            self._known[task] = self.of(self._recipe.task(task), sample)
        return self._known[task]

    def of(self, task: Task, examples: Sequence[Example]) -> tuple[float, float, float]:
        messages = [build_prompt(task, example.input) for example in examples]
        prompts = prompt_ids(self._tokenizer, messages, task.system)
        targets = text_ids(self._tokenizer, [example.target for example in examples])
        longest = self._recipe.max_new_tokens
        return (
            fmean(map(len, prompts)),
            fmean(min(len(ids) + 1, longest) for ids in targets),
            fmean(len(example.target.encode()) for example in examples),
        )


def _by_method(jobs: Iterable[Job]) -> list[tuple[str, list[Job]]]:
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.method, []).append(job)
    return list(found.items())


def _method_row(name: str, jobs: Sequence[Job], recipe: Recipe, counter: _Counter) -> Work:
    examples = trained = read = written = disk = 0.0
    for job in jobs:
        seen = trained_examples(job, recipe)
        examples += seen
        tasks = [counter.lengths(task) for task in job.together]
        trained += seen * fmean(prompt + target for prompt, target, _ in tasks)
        for cell in job.cells:
            prompt, target, size = counter.lengths(cell.task)
            outputs = tested_examples(job, recipe) / len(job.cells)
            passes = len(recipe.task(cell.task).parts) if name == "multi-step" else 1
            read, written = read + passes * outputs * prompt, written + passes * outputs * target
            # A line of predictions has an id and keys; a run some 2 kB, and its scores.
            disk += outputs * (size + 60 + 6 * _METRICS) + 2000
    cells = sum(len(job.cells) for job in jobs)
    return Work(
        name, cells, sum(bool(job.examples) for job in jobs), examples, trained, read, written, disk
    )


def _adapter_row(recipe: Recipe, part: str, counter: _Counter, model: torch.nn.Module) -> Work:
    training, _ = training_examples(recipe, part)
    prompt, target, _ = counter.of(recipe.task(part), training[:_SAMPLE])
    assert recipe.train is not None  # or nothing is missing
    seen = seen_examples(len(training), recipe.train.options_for(part))
    size = lora_parameters(base_shape(model), recipe.train.rank) * _NARROW
    return Work(f"adapter {part}", 0, 1, seen, seen * (prompt + target), 0, 0, size)


def _measured(
    recipe: Recipe, folder: Path, counter: _Counter, parameters: int
) -> tuple[float, str] | None:
    """The speed of the finished runs: their reckoned work over their seconds."""
    runs = finished(folder)
    jobs = {job.cells: job for job in jobs_of(recipe)}
    work = seconds = 0.0
    count = 0
    for job in jobs.values():
        done = [runs[cell.place] for cell in job.cells if cell.place in runs]
        if len(done) < len(job.cells):
            continue
        row = _method_row(job.method, [job], recipe, counter)
        work += row.operations(parameters)
        seconds += done[0].seconds["build"] + sum(run.seconds["generate"] for run in done)
        count += len(done)
    if not count or seconds <= 0:
        return None
    return work / seconds, f"the {count} finished runs in {folder}"


def finished(folder: Path) -> dict[Path, Run]:
    """The runs of a folder that can be read, by their places in it."""
    found = {}
    for path in sorted(folder.glob(f"*/*/*/{RUN}")):
        try:
            found[path.parent.relative_to(folder)] = load_run(path)
        except OnepassError:
            continue
    return found


def _machine(recipe: Recipe) -> tuple[float, str]:
    """A share of what a large matrix product reaches on the recipe's device."""
    wanted = recipe.device
    if wanted in ("auto", "balanced"):
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (512, torch.float32)
    matrix = torch.rand(size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best * UTILISATION, (
        f"{UTILISATION:.0%} of the {best / 1e9:,.0f} GFLOP/s that a matrix product reaches here "
        f"({device.type}); no run of this recipe is finished in that folder"
    )
