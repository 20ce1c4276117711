"""Multi-step: the adapters in turn, each on the output of the one before. Slow, but no training."""

from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.core.errors import OnepassError
from onepass.core.registry import unknown
from onepass.methods.setting import Setting, method

PROMPT_STYLES = ("instruction", "empty")


@method(
    "multi-step",
    "Multi-step",
    reference="multi-step",
    options=("prompt_style",),
    efficient=False,
)
def multi_step(setting: Setting) -> Composition:
    """`prompt_style` "empty" gives each adapter the text alone, without an instruction."""
    style = setting.option("prompt_style", "instruction")
    if style not in PROMPT_STYLES:
        raise unknown("prompt_style of multi-step", str(style), list(PROMPT_STYLES))
    instructed = style == "instruction"
    if setting.task.activate and not instructed:
        raise OnepassError(
            "prompt_style empty leaves activated adapters no words to act from; use instruction"
        )
    passes = [
        Pass(part if instructed else part.bare(), (Weighted(setting.adapter(part)),))
        for part in setting.task.parts
    ]
    return setting.compose(*passes)
