"""A prompt says all it is given, and when it cannot, leaves out the oldest and never the task."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onepass.core.errors import OnepassError
from onepass.tasks.book import parse_task
from onepass.tasks.prompt import build_prompt, fit_prompt

TASK = parse_task("summarize+translate:es")
FLOOR = len(build_prompt(TASK, ""))

lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30)
texts = st.lists(lines, min_size=1, max_size=8).map("\n".join)
shot_lists = st.lists(st.tuples(texts, texts), max_size=3)


def test_the_prompt_is_instruction_blank_line_text() -> None:
    prompt = build_prompt(TASK, "Ana: Hi!\nBen: Hello.\n")
    assert prompt == "Summarize the conversation in Spanish.\n\nAna: Hi!\nBen: Hello."


def test_shots_stand_before_the_text_in_order() -> None:
    prompt = build_prompt(TASK, "third", [("first", "uno"), ("second", "dos")])
    words = ["Spanish.", "first", "uno", "second", "dos", "third"]
    places = [prompt.index(word) for word in words]
    assert places == sorted(places)


@given(texts, shot_lists)
def test_what_fits_is_left_alone(text: str, shots: list[tuple[str, str]]) -> None:
    whole = build_prompt(TASK, text, shots)
    fitted = fit_prompt(TASK, text, len, len(whole), shots)
    assert fitted.prompt == whole
    assert fitted.notice == ""


@given(texts, shot_lists, st.integers(FLOOR, FLOOR + 300))
def test_a_fitted_prompt_fits_and_keeps_the_instruction_and_the_newest(
    text: str, shots: list[tuple[str, str]], budget: int
) -> None:
    fitted = fit_prompt(TASK, text, len, budget, shots)
    assert len(fitted.prompt) <= budget
    assert fitted.prompt.startswith(TASK.instruction)
    stripped = text.strip().split("\n")
    assert 0 <= fitted.dropped_turns < len(stripped)
    kept = "\n".join(stripped[fitted.dropped_turns :])[fitted.dropped_characters :]
    rest = shots[fitted.dropped_shots :]
    assert fitted.prompt == build_prompt(TASK, kept, rest)
    if fitted.dropped_turns or fitted.dropped_characters:
        assert not rest
    if fitted.dropped_characters:
        assert fitted.dropped_turns == len(stripped) - 1


@given(texts, st.integers(FLOOR, FLOOR + 200))
def test_no_more_is_dropped_than_needed(text: str, budget: int) -> None:
    fitted = fit_prompt(TASK, text, len, budget)
    stripped = text.strip().split("\n")
    if fitted.dropped_characters:
        more = stripped[-1][fitted.dropped_characters - 1 :]
    elif fitted.dropped_turns:
        more = "\n".join(stripped[fitted.dropped_turns - 1 :])
    else:
        return
    assert len(build_prompt(TASK, more)) > budget


def test_the_notice_says_what_was_left_out() -> None:
    fitted = fit_prompt(TASK, "Ana: one\nBen: two\nAna: three", len, FLOOR + 10, [("a" * 50, "b")])
    assert fitted.prompt.endswith("\n\nAna: three")
    assert fitted.dropped_turns == 2
    assert "1 solved example, 2 oldest turns" in fitted.notice


def test_an_instruction_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(OnepassError, match="fewer new tokens or a longer context"):
        fit_prompt(TASK, "Ana: Hi!", len, FLOOR - 1)


def test_fitting_a_very_long_text_counts_rarely() -> None:
    calls = 0

    def count(prompt: str) -> int:
        nonlocal calls
        calls += 1
        return len(prompt)

    fit_prompt(TASK, "Ana: again and again\n" * 100_000, count, 500)
    assert calls < 30


def test_a_task_that_is_not_instructed_is_given_the_text_alone() -> None:
    bare = parse_task("summarize").bare()
    assert build_prompt(bare, " Ana: Hi. ") == "Ana: Hi."
    shown = build_prompt(bare, "Ana: Hi.", [("Ben: Tea?", "Tea.")])
    assert shown.startswith("Input:\nBen: Tea?\nOutput:\nTea.")
    fitted = fit_prompt(bare, "first line\nsecond line", len, 11)
    assert (fitted.prompt, fitted.dropped_turns) == ("second line", 1)
