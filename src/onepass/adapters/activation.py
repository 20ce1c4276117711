"""Activated and ordinary adapters, and which of them go together.

An activated adapter (arXiv 2504.12397) changes only the tokens from its invocation on, so what the
bare base keeps of the text before serves every one. An ordinary one changes all tokens. One pass
over a text does either.
"""

from collections.abc import Iterable

from onepass.adapters.lora import Adapter
from onepass.core.errors import OnepassError


def are_activated(adapters: Iterable[Adapter]) -> bool:
    """Whether the adapters are activated ones; an `OnepassError` if some are and some are not."""
    adapters = list(adapters)
    active = [adapter.name for adapter in adapters if adapter.invocation]
    if active and len(active) < len(adapters):
        ordinary = [adapter.name for adapter in adapters if not adapter.invocation]
        raise OnepassError(
            f"activated adapters ({', '.join(active)}) act from certain words of the prompt on, "
            f"ordinary ones ({', '.join(ordinary)}) on all of it; one pass does either, so train "
            "them alike (onepass train --activated)"
        )
    return bool(active)


def common_invocation(adapters: Iterable[Adapter]) -> tuple[int, ...]:
    """The invocation of what is made of the adapters: that of the first; () of ordinary ones.

    A composition acts from where its task says; what differs among its parts is only the words
    that each of them was trained to act from. Raises as `are_activated`.
    """
    adapters = list(adapters)
    return adapters[0].invocation if are_activated(adapters) else ()


def check_activation(task: str, activate: str, adapters: Iterable[Adapter]) -> None:
    """Raise `OnepassError` for adapters that do not all act as a task's prompt is written.

    task: its name. activate: the words from which on it says that they act; "" for everywhere.
    """
    adapters = list(adapters)
    if not adapters or are_activated(adapters) == bool(activate):
        return
    names = ", ".join(adapter.name for adapter in adapters)
    if activate:
        raise OnepassError(
            f"task {task!r} acts from {activate!r} on, but the adapters for it ({names}) "
            "act on the whole prompt; leave out activate, or train them with --activated"
        )
    raise OnepassError(
        f"the adapters {names} act from certain words of the prompt on, and task {task!r} "
        "does not say from which; give it activate and a prompt with the text first"
    )
