"""Gains and biases, as IA³ (arXiv 2205.05638) has them on activations, on what the merge adds.

    y = W x + (1 + g_t) ⊙ ΔW_l x + p_t

g_t and p_t (out,) are trained from 0, one of each per projection type, shared over all layers. A
gain on W x too would scale the rows of W, which no LoRA holds; on ΔW x it scales those of B_i.
"""

from onepass.adapters.composition import Composition
from onepass.methods.calibration import LC_RATE, calibrate
from onepass.methods.setting import Setting, method


@method("lc-gain", "Gains and biases", made_of=(calibrate,), learns=True)
def lc_gain(setting: Setting) -> Composition:
    return calibrate(setting, "lc-gain", None, LC_RATE)
