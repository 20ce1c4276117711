"""What every export needs: the one pass of a composition."""

from onepass.adapters.composition import Composition, Pass
from onepass.core.errors import OnepassError


def single_pass(composition: Composition) -> Pass:
    """The pass of a composition that has one and shows no examples, else an `OnepassError`."""
    if len(composition.passes) > 1:
        raise OnepassError(
            f"the composition for {composition.task} has {len(composition.passes)} passes, which "
            "no single set of weights computes; export each adapter, or calibrate a composition"
        )
    (only,) = composition.passes
    if only.shots:
        raise OnepassError(
            f"the composition for {composition.task} shows {len(only.shots)} solved examples in "
            "its prompt, which no weights hold; calibrate a composition instead"
        )
    return only
