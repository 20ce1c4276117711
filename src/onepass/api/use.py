"""Using what was made: run it, score it, look into it, take it elsewhere."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import onepass.smalltown.verified  # its metrics  # noqa: F401
from onepass.adapters import composition as plain
from onepass.adapters import inspect as inspecting
from onepass.adapters.adapter import Adapter
from onepass.adapters.composition import check_base, load_composition
from onepass.adapters.merging import check_mergeable
from onepass.api.objects import Composition, Inspection, Scores, own
from onepass.api.resolve import (
    AdapterLike,
    BaseLike,
    Data,
    TaskLike,
    TasksLike,
    as_adapter,
    as_composition,
    as_task,
    read_data,
)
from onepass.core.errors import OnepassError, OnepassWarning
from onepass.evaluate import score as scoring
from onepass.evaluate.metrics import METRICS
from onepass.model.generate import Generated, Progress, run
from onepass.tasks.data import predictions_of, texts_of

What = plain.Composition | AdapterLike
"""A composition or its folder; or an adapter, which is run as it is."""


def load(folder: Path | str) -> Composition:
    """The composition in a folder; an `OnepassError` if there is none, or it is damaged."""
    return own(Composition, load_composition(folder))


@overload
def generate(what: What, texts: str, **options: Any) -> str: ...
@overload
def generate(what: What, texts: Any, **options: Any) -> list[str]: ...
def generate(
    what: What, texts: Any, *, columns: Mapping[str, str] | None = None, **options: Any
) -> str | list[str]:
    """The outputs of a composition, or of an adapter, for texts; one text gives one output.

    texts: a text, or several (a list, rows with an input, a data frame, the `Path` of a file).
    columns: which column of rows is the "input".
    options: as for `outputs`. A text too long for the base loses its oldest lines, with a warning.
    """
    named = texts_of(texts, columns)
    done = outputs(what, [each.text for each in named], **options)
    for each, notice in zip(named, done.notices, strict=True):
        if notice:
            warnings.warn(f"{each.id}: {notice}", OnepassWarning, stacklevel=2)
    return done.texts[0] if isinstance(texts, str) else done.texts


def outputs(
    what: What,
    texts: Sequence[str],
    *,
    task: TaskLike | None = None,
    tasks: TasksLike = None,
    base: BaseLike | None = None,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    dtype: str = "auto",
    quantization: str = "none",
    progress: Progress | None = None,
) -> Generated:
    """The outputs with what they took; see `Generated`.

    Args:
        task: of an adapter whose card states none.
        base: by default the one that the composition or the adapter names.
        max_new_tokens: the longest output of a pass; by default its task's, or else 128.
        progress: called with the number of texts just finished.
    """
    composition, loaded = as_composition(
        what, base, task, tasks, device=device, dtype=dtype, quantization=quantization
    )
    check_base(composition, loaded.shape)
    return run(loaded, composition, texts, max_new_tokens, batch_size, progress)


def served_outputs(
    composition: plain.Composition,
    texts: Sequence[str],
    url: str,
    served: Sequence[str],
    *,
    max_new_tokens: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Generated:
    """The outputs by a server at `url` that has each pass under a name, as `served` gives them.

    options: those of `Endpoint`: concurrency, timeout, retries, ...
    """
    from onepass.serve.endpoint import Endpoint
    from onepass.serve.served import run_served

    if not served:
        raise OnepassError("name the model of each pass on the server")
    server = Endpoint(url, served[0], **options)
    return run_served(composition, server, served, texts, max_new_tokens, progress)


def score(
    predictions: Sequence[str] | Mapping[str, str] | Path | str,
    data: Data,
    task: TaskLike,
    *,
    tasks: TasksLike = None,
    metrics: Sequence[str] | None = None,
    split: str = "test",
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> Scores:
    """How good predictions are, by every metric that applies.

    Args:
        predictions: one for each example, in order; or by the example's id, as a mapping or a file
            of JSON lines with "id" and "prediction".
        data: the examples; of a corpus its `split`, the first `limit`.
        metrics: names that `onepass ls metrics` lists; by default all that are usual.

    Raises:
        OnepassError: predictions and examples do not pair up, or a metric is unknown.
    """
    wanted, where = as_task(task, tasks), ""
    for name in metrics or ():
        METRICS.get(name)
    if isinstance(predictions, Path | str):
        where = f"{predictions}: "
        predictions = predictions_of(Path(predictions))
    examples = read_data(data, wanted, split, limit, columns)
    if isinstance(predictions, Mapping):
        known = {example.id: example for example in examples}
        for name in predictions:
            if name not in known:
                raise OnepassError(
                    f"{where}prediction {name!r} is of none of the {len(known)} examples of "
                    f"{wanted} in the split {split!r}; name the data it was made on (--corpus, "
                    "--split, --limit)"
                )
        examples = [known[name] for name in predictions]
        predictions = list(predictions.values())
    if len(predictions) != len(examples):
        raise OnepassError(
            f"{where}{len(predictions)} predictions for the {len(examples)} examples of {wanted} "
            f"in the split {split!r}; name their split, or give them by id"
        )
    return Scores(scoring.score(predictions, examples, wanted, metrics))


def inspect(adapters: AdapterLike | Sequence[AdapterLike]) -> Inspection:
    """Ranks, targets and norms of adapters, and for each pair how well it would merge."""
    several = [adapters] if isinstance(adapters, Adapter | Path | str) else adapters
    loaded = [as_adapter(each) for each in several]
    check_mergeable(loaded, force=True)
    facts = [inspecting.facts(adapter) for adapter in loaded]
    known = {id(adapter): each for adapter, each in zip(loaded, facts, strict=True)}
    met = [(one, other, inspecting.meet(one, other)) for one, other in inspecting.pairs(loaded)]
    hints = [inspecting.hints(known[id(a)], known[id(b)], found) for a, b, found in met]
    return Inspection(facts, met, hints)
