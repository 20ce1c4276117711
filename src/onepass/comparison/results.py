"""Finished runs, and the numbers that tables are made of. All scores here are in percent."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean

from onepass.comparison.recipe import Recipe
from onepass.comparison.runs import Run
from onepass.evaluate.stats import Interval, Paired, mean_interval, paired_test
from onepass.tasks.book import parse_task

VERIFIED, OWN = "verified", "task_metric"
"""The metric that methods are compared by, and what stands in for it where it cannot be had."""

Conversation = tuple[str, int]
"""One input: which list of inputs it is of, and its place there."""


@dataclass(frozen=True)
class Results:
    """The `runs` of a `recipe`, in the recipe's order.

    `judges` are the metrics that hold the verdicts of judges.
    """

    recipe: Recipe
    runs: list[Run]
    judges: list[str] = field(default_factory=list)

    @property
    def split(self) -> str:
        """The split that the comparison is about."""
        return self.recipe.splits[0]

    @property
    def headline(self) -> str:
        """`VERIFIED` where the corpus can be verified, else `OWN`."""
        found = any(VERIFIED in result.means for run in self.runs for result in run.splits.values())
        return VERIFIED if found else OWN

    @property
    def headline_title(self) -> str:
        """What people call the headline: the tasks' metric, where they have one in common."""
        own = {metric_for(run, self.headline) for run in self.runs}
        return own.pop() if len(own) == 1 else self.headline

    @property
    def methods(self) -> list[str]:
        """The methods that have runs."""
        return list(dict.fromkeys(run.method for run in self.runs))

    @property
    def budgets(self) -> list[int]:
        """The budgets that have runs, ascending."""
        return sorted({run.examples for run in self.runs} - {0})

    def of(self, method: str, examples: int | None = None) -> list[Run]:
        """A method's runs at one budget; None: at the largest it has."""
        runs = [run for run in self.runs if run.method == method]
        if examples is None:
            examples = max((run.examples for run in runs), default=0)
        return [run for run in runs if run.examples == examples]

    def tasks(self, runs: Iterable[Run]) -> list[str]:
        return list(dict.fromkeys(run.task for run in runs))


def metric_for(run: Run, metric: str) -> str:
    """The metric of a run that `metric` means: `OWN` is that of its task."""
    return run.metric or parse_task(run.task).metric if metric == OWN else metric


def task_means(runs: Iterable[Run], split: str, metric: str) -> dict[str, float]:
    """The mean of a metric by task, over seeds; tasks without it are left out."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        result, name = run.splits.get(split), metric_for(run, metric)
        if result is not None and name in result.means:
            found[run.task].append(100 * result.means[name])
    return {task: fmean(values) for task, values in found.items()}


def by_conversation(runs: Iterable[Run], split: str, metric: str) -> dict[Conversation, float]:
    """The mean score of each conversation, over the tasks and seeds it was used for.

    Tasks share their conversations, so that outputs for one are no independent trials; averaged
    like this they can be resampled.
    """
    found: dict[Conversation, list[float]] = defaultdict(list)
    for run in runs:
        if split not in run.splits:
            continue
        result = run.splits[split]
        for place, value in enumerate(result.values(metric_for(run, metric))):
            if value is not None:
                found[result.inputs, place].append(100 * value)
    return {conversation: fmean(values) for conversation, values in found.items()}


def interval(runs: Iterable[Run], split: str, metric: str) -> Interval | None:
    """The mean with its 95 % interval over conversations; None where there is none."""
    values = list(by_conversation(runs, split, metric).values())
    return mean_interval(values) if values else None


def compare(one: list[Run], other: list[Run], split: str, metric: str) -> tuple[Paired, int] | None:
    """The paired test of two methods on the tasks that both have, and how many these are.

    None if they have no conversation in common.
    """
    tasks = {run.task for run in one} & {run.task for run in other}
    a, b = (
        by_conversation([run for run in runs if run.task in tasks], split, metric)
        for runs in (one, other)
    )
    both = [conversation for conversation in a if conversation in b]
    if not both:
        return None
    return paired_test([a[each] for each in both], [b[each] for each in both]), len(tasks)
