"""Joint expert: one more whole adapter, trained on the compositional task. Good, but large."""

from dataclasses import replace

from onepass.adapters.composition import Composition, Pass, Weighted
from onepass.methods.setting import Setting, method
from onepass.model.training.adapter import train_adapter


@method(
    "joint-expert",
    "Joint expert",
    reference="joint-expert",
    options=("rank", "alpha"),
    learns=True,
    efficient=False,
)
def joint_expert(setting: Setting) -> Composition:
    """`rank` defaults to that of the first task adapter, so that the two are equally large."""
    rank = setting.option("rank", None)
    if rank is None:
        rank = next(iter(setting.parts()[0].modules.values())).rank
    adapter = train_adapter(
        setting.base,
        setting.task,
        setting.train,
        setting.validation,
        rank=int(rank),
        alpha=setting.option("alpha", None),
        options=setting.train_options(),
        state_dir=setting.state_dir,
        progress=setting.progress,
    )
    adapter = replace(adapter, name=f"joint-{setting.task.name}")
    pass_ = Pass(setting.task, (Weighted(adapter, stored=True),))
    return setting.compose(pass_, training=adapter.card)
