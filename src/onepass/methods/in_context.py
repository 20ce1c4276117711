"""In-context learning: a few examples of the compositional task in the prompt, nothing trained."""

from onepass.adapters.composition import Composition, Pass
from onepass.methods.setting import Setting, method


@method(
    "in-context",
    "In-context learning",
    reference="in-context-learning",
    options=("shots",),
    uses_adapters=False,
)
def in_context(setting: Setting) -> Composition:
    """`shots` (default 2) training examples, the shortest of the first 50: contexts are small."""
    count = int(setting.option("shots", 2))
    shortest = sorted(setting.train[:50], key=lambda example: len(example.input))[:count]
    shots = tuple((example.input, example.target) for example in shortest)
    return setting.compose(Pass(setting.task, shots=shots), shots=count)
