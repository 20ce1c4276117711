"""Two folders of runs side by side: the same methods, on the same conversations."""

from onepass.comparison.results import Results, compare, interval
from onepass.comparison.table import Column, Table, Value


def against(one: Results, other: Results) -> Table | None:
    """Each method of `one` against the same of `other`, by the headline and by named metrics.

    Only tasks and conversations that both have count; None if they have none in common.
    """
    columns = [Column("method"), Column("metric"), Column("here"), Column("there")]
    columns += [Column("difference"), Column("low"), Column("high"), Column("p", digits=4)]
    metrics = list(one.recipe.metrics or [one.headline])
    rows: list[list[Value]] = []
    for name in one.methods:
        ours, theirs = one.of(name), other.of(name)
        tasks = {run.task for run in ours} & {run.task for run in theirs}
        for metric in metrics:
            found = compare(ours, theirs, one.split, metric)
            if found is None:
                continue
            means = [
                interval([run for run in runs if run.task in tasks], one.split, metric)
                for runs in (ours, theirs)
            ]
            here, there = (None if each is None else each.mean for each in means)
            test, _ = found
            rows.append([name, metric, here, there, test.difference, test.low, test.high, test.p])
    if not rows:
        return None
    note = (
        f"Percent on the split {one.split}, here ({one.recipe.name}) and there "
        f"({other.recipe.name}), and the difference with its 95 % interval; p by randomisation "
        "within conversations, not adjusted for the number of tests."
    )
    return Table(f"Against {other.recipe.name}, method by method", columns, rows, note)
