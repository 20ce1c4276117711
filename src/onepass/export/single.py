"""What every export needs: a composition's one pass, as one LoRA, and the card of what it is."""

from typing import Any

from onepass.adapters.adapter import Lora
from onepass.adapters.composition import Composition, Pass, pass_bias, pass_delta
from onepass.core.errors import OnepassError
from onepass.model import activation

WITHOUT_BIASES = "--form column or --kind lc++"
"""The options of `onepass calibrate` whose result any LoRA holds."""


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


def single_lora(composition: Composition) -> dict[str, Lora]:
    """ΔW of the composition's one pass by module; an `OnepassError` where no LoRA is all of it."""
    pass_ = single_pass(composition)
    if pass_bias(pass_, composition.base):
        raise OnepassError(
            f"the composition for {composition.task} has output biases, which a LoRA cannot hold; "
            f"calibrate with {WITHOUT_BIASES}, or export it as merged"
        )
    modules = pass_delta(pass_, composition.base)
    if not modules:
        raise OnepassError(f"the composition for {composition.task} is the base alone; use that")
    return modules


def is_activated(composition: Composition) -> bool:
    """Whether some pass acts only from an invocation on, and not on the text before."""
    return any(pass_.task.activate for pass_ in composition.passes)


def invocation_of(composition: Composition, tokenizer: Any) -> tuple[int, ...]:
    """The ids from whose last place in a prompt on its one pass acts; () for everywhere.

    tokenizer: of the base; needed for an activated composition only.
    """
    task = single_pass(composition).task
    if task.activate and tokenizer is None:
        raise OnepassError(
            f"the composition for {composition.task} acts from {task.activate!r} on; give the "
            "tokenizer of its base, which says what tokens that is"
        )
    return activation.invocation_of(tokenizer, task)


def refuse_activated(composition: Composition, holder: str, remedy: str) -> None:
    """Raise `OnepassError` for an activated composition, which `holder` cannot hold."""
    if is_activated(composition):
        raise OnepassError(
            f"the composition for {composition.task} acts only from its invocation on, and "
            f"{holder} would act on the whole prompt; {remedy}"
        )


def card_of(composition: Composition) -> dict[str, Any]:
    """What a user of the export must know: what it does, and how it is to be asked."""
    return {
        "task": composition.task.to_json(),
        "method": composition.method,
        "prompt": composition.passes[0].task.message("{text}"),
        "system": composition.passes[0].task.system,
        **({"template": "plain"} if is_plain(composition) else {}),
    }


def is_plain(composition: Composition) -> bool:
    """Whether it was made for a base without a chat template: a blank line follows its prompts."""
    cards = [composition.card]
    cards += [each.adapter.card for pass_ in composition.passes for each in pass_.adapters]
    return any(card.get("template") == "plain" for card in cards)
