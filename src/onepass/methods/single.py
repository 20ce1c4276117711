"""No composition at all: the base alone, or one of the adapters, asked for everything."""

from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.methods.setting import Setting, method
from onepass.tasks.task import Task


@method("zero-shot", "Zero-shot", reference="zero-shot", uses_adapters=False)
def zero_shot(setting: Setting) -> Composition:
    return setting.compose(Pass(setting.task))


@method("main-adapter", "Main-task adapter", reference="main-task-lora")
def main_adapter(setting: Setting) -> Composition:
    return _alone(setting, setting.task.parts[0])


@method("auxiliary-adapter", "Auxiliary-task adapter", reference="auxiliary-task-lora")
def auxiliary_adapter(setting: Setting) -> Composition:
    return _alone(setting, setting.task.parts[-1])


def _alone(setting: Setting, part: Task) -> Composition:
    adapter = setting.adapter(part)
    return setting.compose(Pass(setting.task, (Weighted(adapter),)))
