"""The user message that puts a text before a model, and how it is made to fit.

Tokens are counted by a function the caller gives, so nothing here knows of a tokenizer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onepass.core.errors import OnepassError
from onepass.tasks.task import Task

Shots = Sequence[tuple[str, str]]
"""Solved examples to show in the prompt: (input, target) pairs."""


@dataclass(frozen=True)
class Fitted:
    """A prompt within its budget, and what was left out of it to get there."""

    prompt: str
    dropped_turns: int = 0
    dropped_characters: int = 0
    """Characters cut from the front of the one line that was kept."""
    dropped_shots: int = 0

    @property
    def notice(self) -> str:
        """What was left out, for the user to know; empty when nothing was."""
        left_out = [
            f"{count} {thing}{'s' if count > 1 else ''}"
            for count, thing in (
                (self.dropped_shots, "solved example"),
                (self.dropped_turns, "oldest turn"),
                (self.dropped_characters, "character"),
            )
            if count
        ]
        if not left_out:
            return ""
        return f"the input is longer than the context: left out {', '.join(left_out)}"


def build_prompt(task: Task, text: str, shots: Shots = ()) -> str:
    """The user message: the task's prompt with the text in it.

    With `shots`, the solved examples stand before the text, each as "Input:" and "Output:", and the
    text is followed by an open "Output:".
    """
    text = text.strip()
    if shots:
        solved = "".join(f"Input:\n{given}\nOutput:\n{wanted}\n\n" for given, wanted in shots)
        text = f"{solved}Input:\n{text}\nOutput:"
    return task.message(text)


def fit_prompt(
    task: Task, text: str, count: Callable[[str], int], budget: int, shots: Shots = ()
) -> Fitted:
    """The prompt for `text` of at most `budget` tokens, counted by `count`.

    What goes first is what matters least: the first shots, then the oldest lines of the text, then
    the front of its last line. The rest of the prompt is never cut; if it does not fit, that is an
    `OnepassError`. `count` is taken to grow with the prompt; where it does not quite, the result
    still fits but may be a little shorter than it could be.
    """

    def fits(prompt: str) -> bool:
        return count(prompt) <= budget

    shots = list(shots)
    text = text.strip()
    for dropped in range(len(shots) + 1):
        prompt = build_prompt(task, text, shots[dropped:])
        if fits(prompt):
            return Fitted(prompt, dropped_shots=dropped)

    needed = count(build_prompt(task, ""))
    if needed > budget:
        raise OnepassError(
            f"the prompt of {task.name} takes {needed} tokens without any text, but only {budget} "
            "fit before the answer; allow fewer new tokens or a longer context"
        )
    lines = text.split("\n")
    last = len(lines) - 1

    def after_lines(dropped: int) -> str:
        return build_prompt(task, "\n".join(lines[dropped:]))

    if fits(after_lines(last)):
        dropped = _smallest(last, lambda n: fits(after_lines(n)))
        return Fitted(after_lines(dropped), dropped, dropped_shots=len(shots))

    line = lines[last]
    cut = _smallest(len(line), lambda n: fits(build_prompt(task, line[n:])))
    return Fitted(build_prompt(task, line[cut:]), last, cut, len(shots))


def _smallest(top: int, holds: Callable[[int], bool]) -> int:
    """The smallest number up to `top` for which `holds`, by bisection; it must hold for `top`."""
    low, high = 0, top
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high
