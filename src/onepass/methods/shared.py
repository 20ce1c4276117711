"""The shared variants: one calibration for all compositional tasks of a recipe at once.

Each batch is of one task, on that task's own merge. Storage per task falls with their number.
"""

from onepass.adapters.composition import Composition
from onepass.methods.calibration import LC_RATE, LCPP_RATE, calibrate
from onepass.methods.setting import Setting, method


@method(
    "shared-lc",
    "Shared Learnable Calibration",
    made_of=(calibrate,),
    reference="shared-learnable-calibration",
    learns=True,
    shared=True,
)
def shared_lc(setting: Setting) -> Composition:
    return calibrate(setting, "lc", "output", LC_RATE)


@method(
    "shared-lc++",
    "Shared Learnable Calibration++",
    made_of=(calibrate,),
    reference="shared-learnable-calibration++",
    options=("rank",),
    learns=True,
    shared=True,
)
def shared_lcpp(setting: Setting) -> Composition:
    return calibrate(setting, "lc++", None, LCPP_RATE)
