"""Learnable Calibration and Learnable Calibration++ (arXiv 2507.16083).

On the frozen linear merge of the task adapters (weights 1/N), a few parameters per projection type
are trained, shared over all layers: a bias (LC, in two forms) or a low-rank pair (LC++).
"""

from dataclasses import replace
from typing import Any

from onepass.adapters.calibration import Form, Kind
from onepass.adapters.composition import Composition
from onepass.methods.setting import Setting, method
from onepass.model.training.calibration import train_calibration
from onepass.model.training.objective import training_card

# So few parameters take a far larger step than an adapter's.
LC_RATE, LCPP_RATE = 2e-2, 5e-3


@method("lc", "Learnable Calibration", reference="learnable-calibration", learns=True)
def lc(setting: Setting) -> Composition:
    """A bias on each projection's output: y += p."""
    return calibrate(setting, "lc", "output", LC_RATE)


@method("lc-column", "Learnable Calibration (column)", learns=True)
def lc_column(setting: Setting) -> Composition:
    """A bias on every column of ΔW: y += p·Σx. Exactly a rank-1 LoRA, for any LoRA runtime."""
    return calibrate(setting, "lc", "column", LC_RATE)


@method(
    "lc++",
    "Learnable Calibration++",
    reference="learnable-calibration++",
    options=("rank",),
    learns=True,
)
def lcpp(setting: Setting) -> Composition:
    """A low-rank pair: y += P2 P1 x, of `rank` (default 4)."""
    return calibrate(setting, "lc++", None, LCPP_RATE)


def calibrate(setting: Setting, kind: Kind, form: Form | None, rate: float) -> Composition:
    """One calibration for all of `setting.together`, or for the setting's own task alone."""
    together = setting.together or [setting]
    options = setting.train_options(learning_rate=rate)
    calibration = train_calibration(
        setting.base,
        [each.linear_merge() for each in together],
        [each.train for each in together],
        [each.validation for each in together],
        kind=kind,
        form=form,
        rank=int(setting.option("rank", 4)),
        options=options,
        state_dir=setting.state_dir,
        progress=setting.progress,
    )
    assert calibration.history is not None
    training: dict[str, Any] = training_card(options, calibration.history)
    training["examples"] = sum(len(each.train) for each in together)
    pass_ = replace(setting.linear_merge(), calibration=calibration)
    return setting.compose(pass_, training=training)
