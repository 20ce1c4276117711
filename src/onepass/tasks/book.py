"""Declared tasks by name: the benchmark's nine, and those of a user's YAML file.

`docs/tasks.md` describes the file. A declared name may be a combination's ("title+translate:it"),
whose fields then take the place of those made from its parts.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import PlainSerializer, PlainValidator

from onepass.core.errors import OnepassError
from onepass.core.files import read_text
from onepass.core.registry import unknown
from onepass.tasks.task import Task, combine, slug, task_from


class Tasks:
    """A book of declared tasks, in their order; the benchmark's nine come first in every one."""

    def __init__(self, declared: Iterable[Task | Mapping[str, Any]] = (), where: str = "") -> None:
        """Raises `OnepassError`, naming `where`, for a name that is taken or a task that is none.

        A mapping whose name is a combination's declares what differs from the one made.
        """
        self._single: dict[str, Task] = dict(_benchmark())
        self._given: dict[str, Mapping[str, Any]] = {}
        self._known: dict[str, Task] = {}
        for number, each in enumerate(declared, start=1):
            place = f"{where}, task {number}" if where else f"task {number}"
            row = each.to_json() if isinstance(each, Task) else each
            if isinstance(row, Mapping) and "+" in str(row.get("name", "")):
                self._given[str(row["name"])] = {k: v for k, v in row.items() if k != "composed_of"}
                for part in each.composed_of if isinstance(each, Task) else ():
                    self._add(part, place, again=True)
            else:
                self._add(each if isinstance(each, Task) else task_from(each, place), place)
        self.check(self._given, where)

    def check(self, names: Iterable[str], where: str) -> None:
        """Raise `OnepassError`, naming `where`, for a name that `parse` refuses."""
        for name in names:
            try:
                self.parse(name)
            except OnepassError as error:
                raise OnepassError(f"{where}: {error}" if where else str(error)) from error

    def _add(self, task: Task, place: str, again: bool = False) -> None:
        known = self._single.get(task.name)
        if known == task and (again or task.name in _benchmark()):
            return
        if known is not None:
            owner = "the benchmark's" if task.name in _benchmark() else "declared twice"
            raise OnepassError(f"{place}: {task.name!r} is {owner}; choose another name")
        twin = next((name for name in self._single if slug(name) == slug(task.name)), None)
        if twin:
            raise OnepassError(
                f"{place}: {task.name!r} would share a folder with {twin!r}; choose another name"
            )
        self._single[task.name] = task

    def names(self) -> list[str]:
        """The single tasks, then the combinations that are declared."""
        return [*self._single, *self._given]

    def declared(self) -> list[Task]:
        """The tasks that are not the benchmark's own."""
        return [self.parse(name) for name in self.names() if name not in _benchmark()]

    def parse(self, name: str) -> Task:
        """The task called `name`: a declared one, or a combination of them.

        Raises `OnepassError` for an unknown part (with near names), and as `combine` does.
        """
        if name not in self._known:
            names = [part.strip() for part in str(name).split("+")]
            for part in names:
                if part not in self._single:
                    raise OnepassError(
                        f"{unknown('task', part, list(self._single))} (declare others in a YAML "
                        "file: --tasks FILE)"
                    )
            whole = "+".join(names)
            given = dict(self._given.get(whole, {}))
            given.pop("name", None)
            parts = [self._single[part] for part in names]
            if given:
                checked = task_from({"prompt": "{text}", **given, "name": whole}, whole)
                given = {field: getattr(checked, field) for field in given}
            self._known[name] = combine(parts, **given)
        return self._known[name]


def read_tasks(path: Path | str) -> Tasks:
    """The tasks declared in a YAML file: a list of tasks, or a mapping with one under "tasks".

    Raises `OnepassError` naming the file, and the line or the task that is wrong.
    """
    path = Path(path)
    data = parse_yaml(read_text(path), path)
    rows = data.get("tasks") if isinstance(data, Mapping) else data
    if not isinstance(rows, list):
        raise OnepassError(f"{path}: expected a list of tasks, each with a name; see docs/tasks.md")
    found = Tasks([row for row in rows if not isinstance(row, str)], str(path))
    found.check((row for row in rows if isinstance(row, str)), str(path))
    return found


def parse_yaml(text: str, path: Path | str) -> Any:
    """What a YAML text says; an `OnepassError` naming the file and the line where it is none."""
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise OnepassError(f"{path}{line}: not YAML ({error.problem})") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise OnepassError(f"{path}: not YAML ({error})") from error


@cache
def _benchmark() -> Mapping[str, Task]:
    text = resources.files(__package__).joinpath("benchmark.yaml").read_text(encoding="utf-8")
    return {task.name: task for task in map(task_from, yaml.safe_load(text))}


@cache
def _benchmark_tasks() -> Tasks:
    return Tasks()


def parse_task(name: str) -> Task:
    """The benchmark's task of that name, single or a combination; see `Tasks.parse`."""
    return _benchmark_tasks().parse(name)


def _read_task(value: Any) -> Task:
    if isinstance(value, Task):
        return value
    return parse_task(value) if isinstance(value, str) else task_from(value)


TaskField = Annotated[Task, PlainValidator(_read_task), PlainSerializer(Task.to_json)]
"""A task in a manifest: whole, so that what is shipped depends on no word of this code. Manifests
of older formats name one of the benchmark's."""
