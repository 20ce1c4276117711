"""Which method is best at each budget, and which others may be as good."""

from collections.abc import Mapping

from onepass.comparison.results import Results, compare, interval
from onepass.comparison.runs import Run
from onepass.comparison.table import Column, Table, Value
from onepass.evaluate.stats import Interval
from onepass.methods import METHODS

LEVEL = 0.05
"""A paired test with a p-value of at least this finds no clear difference."""

_ENOUGH = 20


def winners(results: Results) -> Table:
    """A row per budget: the best method by the headline, those near it, the best efficient one.

    A method that does not learn competes at every budget. Methods that lack tasks which others
    have (in an unfinished folder) do not compete: their means are over something else.
    """
    columns = [
        Column("examples", "training examples", digits=0),
        Column("best"),
        Column("mean"),
        Column("low"),
        Column("high"),
        Column("near", "no clear difference from it"),
        Column("best_efficient", "best efficient method"),
        Column("efficient_mean", "its mean"),
    ]
    rows: list[list[Value]] = []
    for budget in results.budgets or [0]:
        runs = _complete(results, budget)
        found = {name: interval(of, results.split, results.headline) for name, of in runs.items()}
        scored = {name: each for name, each in found.items() if each is not None}
        if not scored:
            continue
        means = {name: each.mean for name, each in scored.items()}
        best = max(means, key=means.__getitem__)
        efficient = [name for name in means if METHODS.get(name).efficient]
        second = max(efficient, key=means.__getitem__, default=None)
        rows.append(
            [
                budget or None,
                best,
                means[best],
                scored[best].low,
                scored[best].high,
                ", ".join(_near(results, runs, scored, best)) or "none",
                second,
                None if second is None else means[second],
            ]
        )
    note = (
        f"By {results.headline_title} on {results.split}, percent over all tasks, with the 95 % "
        f"interval. No clear difference: the paired test has p of {LEVEL} or more, not adjusted "
        "for the number of tests. Efficient: one pass, and far less storage than an adapter."
    )
    return Table("Best method by budget", columns, rows, note)


def _complete(results: Results, budget: int) -> dict[str, list[Run]]:
    """The runs at a budget of each method that has all the tasks there are at it."""
    found = {name: results.of(name, budget) or results.of(name, 0) for name in results.methods}
    tasks = {name: {run.task for run in runs} for name, runs in found.items()}
    every = set().union(*tasks.values())
    return {name: runs for name, runs in found.items() if tasks[name] == every}


def _near(
    results: Results, runs: Mapping[str, list[Run]], scored: Mapping[str, Interval], best: str
) -> list[str]:
    near = []
    for name, mine in scored.items():
        if name == best or _far(mine, scored[best]):
            continue
        test = compare(runs[name], runs[best], results.split, results.headline)
        if test is not None and test[0].p >= LEVEL:
            near.append(name)
    return near


def _far(one: Interval, best: Interval) -> bool:
    """Whether a test, which takes a second, can be spared: the means lie some four standard errors
    apart, over enough conversations for an interval to say something.
    """
    widths = (one.high - one.low) + (best.high - best.low)
    return min(one.count, best.count) >= _ENOUGH and best.mean - one.mean > widths
