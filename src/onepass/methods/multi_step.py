"""Multi-step: the adapters in turn, each on the output of the one before. Slow, but no training."""

from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.methods.setting import Setting, method


@method("multi-step", "Multi-step", reference="multi-step", efficient=False)
def multi_step(setting: Setting) -> Composition:
    passes = [Pass(part, (Weighted(setting.adapter(part)),)) for part in setting.task.parts]
    return setting.compose(*passes)
