"""Any task's own examples: rows of {"input", "target" or "targets"}.

Also "id", "meta" and "task" where present. A row that names a "task" counts for that task only,
other rows count for any.
"""

from collections.abc import Iterable, Iterator

from onepass.core.errors import OnepassError
from onepass.tasks.corpora.kind import Kind
from onepass.tasks.corpora.row import Row, clean
from onepass.tasks.example import Example
from onepass.tasks.task import Task

LAYOUT = '"input" and "target" (or "targets", a list)'


def read(rows: Iterable[Row], task: Task) -> Iterator[tuple[str, Example]]:
    for row in rows:
        # A table has every column in every row: null stands for "not given".
        fields = {key: value for key, value in row.fields.items() if value is not None}
        where = row.where
        if fields.get("task", task.name) != task.name:
            continue
        text = row._replace(fields=fields).text("input", LAYOUT)
        if ("target" in fields) == ("targets" in fields):
            raise OnepassError(
                f'{where}: give either "target" or "targets"; found {", ".join(fields)}'
            )
        targets = fields["targets"] if "targets" in fields else [fields["target"]]
        if not isinstance(targets, list) or not targets:
            raise OnepassError(f'{where}: "targets" must be a list of at least one text')
        texts = tuple(clean(target, "target", where) for target in targets)
        meta = fields.get("meta", {})
        if not isinstance(meta, dict):
            raise OnepassError(f'{where}: "meta" must be an object, found {meta!r:.40}')
        yield where, Example(str(fields.get("id", row.name)), text, texts, meta)


PAIRS = Kind(read)
