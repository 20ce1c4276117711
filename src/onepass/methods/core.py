"""Core: a small matrix between the adapters' own factors, on the linear merge.

    ΔW_l = Σ w_i B_i A_i + [B_1 .. B_N] M_t [A_1; ..; A_N]

M_t (R, R), R = Σ r_i, is trained from 0, one per projection type, shared over all layers. Its size
depends on the ranks alone, not on the width of the model; and it adds no rank to the merge.
"""

from onepass.adapters.composition import Composition
from onepass.methods.calibration import calibrate
from onepass.methods.setting import Setting, method

RATE = 5e-3


@method("core", "Core calibration", made_of=(calibrate,), learns=True)
def core(setting: Setting) -> Composition:
    """All adapters need one rank in all layers of a projection type; that may differ by type."""
    return calibrate(setting, "core", None, RATE)
