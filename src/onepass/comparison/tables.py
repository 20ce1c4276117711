"""The tables of a report, each a function of the results."""

from dataclasses import replace
from statistics import fmean

from onepass.comparison.results import (
    OWN,
    VERIFIED,
    Results,
    compare,
    interval,
    metric_for,
    task_means,
)
from onepass.comparison.runs import Run
from onepass.comparison.table import Column, Table, Value
from onepass.methods import METHODS
from onepass.tasks.benchmark import TASK_GROUPS, task_group

REFERENCE = "lc++"
"""The method that all others are tested against."""

GROUP_TITLES = {
    "sum_translation": "summary + language",
    "sum_tone": "summary + tone",
    "reply_translation": "reply + language",
    "reply_tone": "reply + tone",
    "other": "other tasks",
}
_MIB = 2**20


def overview(results: Results) -> Table:
    """What a reader wants first: per method the headline, passes, and what it stores."""
    columns = [
        Column("method"),
        Column(results.headline, results.headline_title, scored=True),
        Column("low"),
        Column("high"),
        Column("passes", digits=0),
        Column("stored_bytes", "stored bytes", digits=0),
        Column("efficient"),
        Column("tasks"),
    ]
    rows: list[list[Value]] = []
    for name in results.methods:
        runs = results.of(name)
        passes = max(run.cost.passes for run in runs)
        stored = round(fmean(run.cost.extra_bytes / run.cost.shared_by for run in runs))
        rows.append(
            [
                name,
                *_interval(results, runs),
                passes,
                stored,
                _efficient(name),
                len(results.tasks(runs)),
            ]
        )
    note = (
        "Percent, averaged over tasks; low and high bound the 95 % interval (bootstrap over "
        "conversations). Stored: for one more compositional task, with weights in 16 bits. "
        "Efficient: one pass, and far less storage than an adapter."
    )
    return Table(f"Comparison of methods ({results.split})", columns, rows, note)


def groups(results: Results) -> Table:
    """Per method the mean of each metric over each group of tasks."""
    columns, rows = _by_group(results)
    columns = [replace(column, scored=column.name != "method") for column in columns]
    note = "Percent, averaged over the tasks of a group."
    return Table(f"By group of tasks ({results.split})", columns, rows, note)


def by_task(results: Results) -> Table:
    """The headline of each method on each task."""
    tasks = results.tasks(sorted(results.runs, key=lambda r: results.recipe.tasks.index(r.task)))
    columns = [Column("method"), *(Column(task, scored=True) for task in tasks)]
    rows: list[list[Value]] = []
    for name in results.methods:
        means = task_means(results.of(name), results.split, results.headline)
        rows.append([name, *(means.get(task) for task in tasks)])
    return Table(results.headline_title, columns, rows)


def comparison(results: Results) -> Table:
    """Table 1 of arXiv 2507.16083, with the verifier before its LLM judge."""
    columns, found = _by_group(results)
    columns.insert(1, Column("efficient"))
    columns += [
        Column(results.headline, f"all: {results.headline_title}"),
        Column("low"),
        Column("high"),
        Column("tasks"),
    ]
    rows: list[list[Value]] = []
    for name, *means in found:
        runs = results.of(str(name))
        end = [*_interval(results, runs), len(results.tasks(runs))]
        rows.append([name, _efficient(str(name)), *means, *end])
    return Table(f"Comparison of methods ({results.split})", columns, rows)


def _efficient(method: str) -> str:
    return "yes" if METHODS.get(method).efficient else "no"


def _by_group(results: Results) -> tuple[list[Column], list[list[Value]]]:
    """Methods by groups of tasks and their metrics: what the literature reports for the group, what
    the recipe asks for, then what verifier and judges find.
    """
    groups: dict[str, list[str]] = {}
    for task in results.tasks(results.runs):
        groups.setdefault(task_group(task) or "other", []).append(task)
    asked = results.recipe.metrics or []
    found = [*asked, *([VERIFIED] if results.headline == VERIFIED else []), *results.judges]
    own = {run.task: metric_for(run, OWN) for run in results.runs}
    shown = [
        (group, metric)
        for group in (*TASK_GROUPS, "other")
        if group in groups
        for metric in dict.fromkeys([*sorted({own[task] for task in groups[group]}), *found])
    ]
    columns = [Column("method")]
    for group, metric in shown:
        columns.append(Column(f"{group}_{metric}", f"{GROUP_TITLES[group]}: {metric}"))
    rows: list[list[Value]] = []
    for name in results.methods:
        row: list[Value] = [name]
        for group, metric in shown:
            of_group = [run for run in results.of(name) if run.task in groups[group]]
            means = task_means(of_group, results.split, metric)
            wanted = [mean for task, mean in means.items() if metric in (*found, own[task])]
            row.append(fmean(wanted) if wanted else None)
        rows.append(row)
    return columns, rows


def _interval(results: Results, runs: list[Run]) -> list[Value]:
    found = interval(runs, results.split, results.headline)
    return [None] * 3 if found is None else [found.mean, found.low, found.high]


def costs(results: Results) -> Table:
    """Table 2 of arXiv 2507.16083: what a task more costs with each method."""
    columns = [
        Column("method"),
        Column("inferences", digits=0),
        Column("additional_parameters", "additional parameters", digits=0),
        Column("additional_storage_mb", "additional storage, MB", digits=3),
        Column("percent_of_adapter", "% of a task adapter", digits=2),
    ]
    rows: list[list[Value]] = []
    for name in results.methods:
        found = [run.cost for run in results.of(name)]
        parameters = fmean(cost.extra_parameters / cost.shared_by for cost in found)
        sizes = [cost.adapter_parameters for cost in found if cost.adapter_parameters]
        rows.append(
            [
                name,
                max(cost.passes for cost in found),
                round(parameters),
                fmean(cost.extra_bytes / cost.shared_by for cost in found) / _MIB,
                100 * parameters / fmean(sizes) if sizes else None,
            ]
        )
    note = (
        "Per compositional task, beyond the base and the task adapters; weights in 16 bits, "
        "MB = 2^20 bytes. A shared calibration counts in equal parts for the tasks it serves."
    )
    return Table("Cost of methods", columns, rows, note)


def measured(results: Results) -> Table:
    """What each method took when it was run: means per cell, over tasks, budgets and seeds."""
    columns = [
        Column("method"),
        Column("cells", digits=0),
        Column("inferences", digits=0),
        Column("parameters", "additional parameters", digits=0),
        Column("storage_mb", "additional storage, MB", digits=3),
        Column("build_seconds", "seconds to build", digits=1),
        Column("generate_seconds", "seconds to generate", digits=2),
        Column("outputs", digits=0),
        Column("tokens", digits=0),
        Column("tokens_per_second", "tokens/s", digits=0),
        Column("peak_mb", "peak memory, MB", digits=0),
    ]
    rows: list[list[Value]] = []
    for name in results.methods:
        runs = [run for run in results.runs if run.method == name]
        found = [result for run in runs for result in run.splits.values()]
        seconds, tokens = (sum(getattr(r, field) for r in found) for field in ("seconds", "tokens"))
        peaks = [float(run.environment.get("peak_memory_mb", 0)) for run in runs]
        rows.append(
            [
                name,
                len(runs),
                max(run.cost.passes for run in runs),
                round(fmean(run.cost.extra_parameters / run.cost.shared_by for run in runs)),
                fmean(run.cost.extra_bytes / run.cost.shared_by for run in runs) / _MIB,
                # A shared training builds the cells of all its tasks at once.
                fmean(run.seconds["build"] / run.cost.shared_by for run in runs),
                seconds / len(runs),
                round(sum(result.count for result in found) / len(runs)),
                round(tokens / len(runs)),
                tokens / seconds if seconds else None,
                max(peaks) or None,
            ]
        )
    devices = sorted({run.environment.get("device", "") for run in results.runs})
    processors = sorted(
        {
            run.environment.get("accelerator") or run.environment.get("processor", "")
            for run in results.runs
        }
    )
    note = (
        f"Means per cell, on {', '.join(devices)} ({', '.join(processors)}). Tokens are those "
        "generated, by all passes. Peak memory is that of a worker, PyTorch, the model and what "
        "earlier cells left in it included."
    )
    return Table("Measured", columns, rows, note)


def tests(results: Results) -> Table | None:
    """Each method against `REFERENCE` on the same conversations; None without the latter."""
    if REFERENCE not in results.methods:
        return None
    columns = [
        Column("method"),
        Column("difference"),
        Column("low"),
        Column("high"),
        Column("p", digits=4),
        Column("tasks"),
    ]
    reference = results.of(REFERENCE)
    rows: list[list[Value]] = []
    for name in results.methods:
        if name == REFERENCE:
            continue
        found = compare(results.of(name), reference, results.split, results.headline)
        if found:
            test, tasks = found
            rows.append([name, test.difference, test.low, test.high, test.p, tasks])
    if not rows:
        return None
    note = (
        f"Points of {results.headline_title} above {REFERENCE}, with the 95 % interval, over the "
        "tasks both have; p by randomisation within conversations, not adjusted for the number of "
        "tests."
    )
    return Table(f"Paired test against {REFERENCE} ({results.split})", columns, rows, note)


def generalisation(results: Results) -> Table | None:
    """The splits side by side; None if there is only one."""
    splits = results.recipe.splits
    if len(splits) == 1:
        return None
    columns = [Column("method")]
    for split in splits:
        columns.append(Column(split, scored=True))
        columns += [Column(f"{split}_low", "low"), Column(f"{split}_high", "high")]
        if results.headline != OWN:
            columns.append(Column(f"{split}_{OWN}", "ROUGE", scored=True))
    rows: list[list[Value]] = []
    for name in results.methods:
        row: list[Value] = [name]
        for split in splits:
            found = interval(results.of(name), split, results.headline)
            row += [None] * 3 if found is None else [found.mean, found.low, found.high]
            if results.headline != OWN:
                own = interval(results.of(name), split, OWN)
                row.append(None if own is None else own.mean)
        rows.append(row)
    note = f"Percent {results.headline}, with the 95 % interval"
    if results.headline != OWN:
        note += "; beside it the task's ROUGE, which says more where hardly anything is verified"
    return Table("Split by split", columns, rows, f"{note}.")


def side_by_side(results: Results) -> list[Table]:
    """For each task and text that the recipe shows, the text and what each method made of it.

    Answers are those of the first seed, at the method's largest budget.
    """
    found = []
    for task in results.tasks(results.runs):
        runs = [run for name in results.methods for run in results.of(name) if run.task == task]
        first = {run.method: run for run in reversed(runs) if run.shown}
        for number, text in enumerate(results.recipe.show if first else []):
            rows: list[list[Value]] = [["(the text)", _one_line(text)]]
            rows += [[name, _one_line(run.shown[number])] for name, run in reversed(first.items())]
            title = f"{task}, side by side ({number + 1} of {len(results.recipe.show)})"
            found.append(Table(title, [Column("method"), Column("output")], rows))
    return found


def _one_line(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())


def per_task(results: Results) -> Table:
    """Everything: each split, task, method and budget, averaged over seeds."""
    metrics = list(
        dict.fromkeys(m for run in results.runs for r in run.splits.values() for m in r.means)
    )
    columns = [Column(name) for name in ("split", "task", "method", "examples")]
    columns += [Column(metric) for metric in metrics]
    columns += [Column("low"), Column("high"), Column("build_seconds"), Column("tokens_per_second")]
    order = {task: place for place, task in enumerate(results.recipe.tasks)}
    rows: list[list[Value]] = []
    for split in results.recipe.splits:
        cells = dict.fromkeys((run.task, run.method, run.examples) for run in results.runs)
        for task, method, examples in sorted(cells, key=lambda cell: order[cell[0]]):
            runs = [run for run in results.of(method, examples) if run.task == task]
            found = [run.splits[split] for run in runs if split in run.splits]
            if not found:
                continue
            row: list[Value] = [split, task, method, examples]
            row += [task_means(runs, split, metric).get(task) for metric in metrics]
            bounds = interval(runs, split, results.headline)
            row += [None, None] if bounds is None else [bounds.low, bounds.high]
            row.append(fmean(run.seconds["build"] for run in runs))
            row.append(fmean(result.tokens_per_second for result in found))
            rows.append(row)
    note = f"Percent; low and high bound {results.headline}."
    return Table("Per task", columns, rows, note)


def curves(results: Results) -> Table:
    """The headline metric of the main split against the number of examples, by task and method.

    If there are several seeds, also the lowest and the highest of their means.
    """
    columns = [Column(name) for name in ("task", "method", "examples", "metric")]
    columns += [Column("mean"), Column("low"), Column("high")]
    several = len({run.seed for run in results.runs}) > 1
    if several:
        columns += [Column("lowest_seed", "lowest seed"), Column("highest_seed", "highest seed")]
    rows: list[list[Value]] = []
    for task in results.tasks(
        sorted(results.runs, key=lambda r: results.recipe.tasks.index(r.task))
    ):
        for method in results.methods:
            for examples in sorted({run.examples for run in results.runs if run.method == method}):
                runs = [run for run in results.of(method, examples) if run.task == task]
                found = interval(runs, results.split, results.headline)
                if found is not None:
                    metric = metric_for(runs[0], results.headline)
                    row: list[Value] = [task, method, examples, metric]
                    row += [found.mean, found.low, found.high]
                    if several:
                        means = [100 * run.splits[results.split].means[metric] for run in runs]
                        row += [min(means), max(means)]
                    rows.append(row)
    note = f"Percent on {results.split}, with the 95 % interval."
    return Table("Quality against number of examples", columns, rows, note)
