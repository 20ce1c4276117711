"""Learned concatenation, LoRA Soups' CAT (arXiv 2410.13025): a weight per adapter and layer.

    ΔW_l = Σ (w_i + c_{i,l}) B_i A_i

c is trained from 0, so that it starts as the linear merge: one number per adapter and module. The
authors train on a mixture of both single tasks' data, and keep the weights of a layer between 0
and 1 and their sum at 1, by a softmax. Here they are free, and trained on the combination itself.
"""

from onepass.adapters.composition import Composition
from onepass.methods.calibration import calibrate
from onepass.methods.setting import Setting, method

RATE = 2e-2


@method("cat", "Learned concatenation", made_of=(calibrate,), learns=True)
def cat(setting: Setting) -> Composition:
    return calibrate(setting, "cat", None, RATE)
