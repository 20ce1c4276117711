"""Whether the embedded benchmark's verifier finds an output right, and in what respect.

It reads facts, language and tone back from the text, so it applies only to examples that carry the
meaning they were made from; for others these metrics are None.
"""

from collections.abc import Sequence
from functools import partial

from onepass.evaluate.metrics.metric import register
from onepass.tasks.example import Example
from onepass.tasks.task import Task


def verified(
    predictions: Sequence[str], examples: Sequence[Example], task: Task, *, respect: str
) -> list[float | None]:
    """1.0 where the verdict holds in this `respect`, 0.0 where not, None without a meaning.

    `respect` is "facts", "language", "tone", or "verified" for all three.
    """
    if not any("meaning" in example.meta for example in examples):
        return [None] * len(examples)
    # The verifier reads the benchmark's lexicons, which other data should not pay for.
    from onepass.smalltown.read import verify

    return [
        float(getattr(verify(prediction, example.meta, task), respect))
        if "meaning" in example.meta
        else None
        for prediction, example in zip(predictions, examples, strict=True)
    ]


for _name, _title, _respect in (
    ("verified", "verified", "verified"),
    ("facts", "facts", "facts"),
    ("right_language", "in language", "language"),
    ("right_tone", "in tone", "tone"),
):
    register(_name, _title, partial(verified, respect=_respect))
