"""Merges that learn one weight per input column, with the adapters themselves as teachers."""

from dataclasses import replace

from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.methods.setting import Setting, method
from onepass.model.chat import text_ids
from onepass.model.generate import run
from onepass.model.training.columns import (
    Rule,
    divergence,
    overlap,
    similarity,
    squared_error,
    train_columns,
)
from onepass.tasks.example import Example

_TOKENS = 96  # the longest output of a teacher, if the context is not very short


@method("ziplora", "ZipLoRA", options=("shots",), learns=True)
def ziplora(setting: Setting) -> Composition:
    """Columns from 1, by the squared error of logits and 0.01 mean |m_1 m_2| (arXiv 2311.13600)."""
    return _learned(setting, Rule(1.0, squared_error, overlap))


@method("dam", "DAM", reference="dam-ziplora", options=("shots",), learns=True)
def dam(setting: Setting) -> Composition:
    """Columns from 1/N, by KL to each adapter and 0.01 of their cosines (arXiv 2410.08371)."""
    return _learned(setting, Rule(1 / len(setting.parts()), divergence, similarity))


def _learned(setting: Setting, rule: Rule) -> Composition:
    """On the first `shots` (200) training inputs; their targets are not looked at.

    The first adapter's data are the inputs, and each next one's what the one before makes of them,
    as in a pipeline.
    """
    texts = [example.input for example in setting.shots(200)]
    longest = min(_TOKENS, max(setting.base.context // 8, 1))
    data: list[list[Example]] = []
    for task, adapter in zip(setting.task.parts, setting.parts(), strict=True):
        alone = replace(setting.compose(Pass(task, (Weighted(adapter),))), task=task)
        outputs = run(setting.base, alone, texts, longest).texts
        sizes = map(len, text_ids(setting.base.tokenizer, outputs))
        told = [
            (text, made)
            for text, made, size in zip(texts, outputs, sizes, strict=True)
            # Nonsense may take more tokens to read than it took to write.
            if 0 < size <= setting.base.context // 2
        ]
        data.append([Example(str(i), text, (made,)) for i, (text, made) in enumerate(told)])
        texts = [made for _, made in told]
    options = setting.train_options(learning_rate=1e-2, max_steps=200, eval_every=None)
    merged = train_columns(
        setting.base, setting.parts(), setting.task.parts, data, rule, options, setting.state_dir,
        setting.progress,
    )  # fmt: skip
    pass_ = Pass(setting.task, (Weighted(merged, stored=True),))
    return setting.compose(pass_, training=merged.card)
