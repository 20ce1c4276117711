"""Names of tasks: what they mean, and what is said of those that mean nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onepass.core.errors import OnepassError
from onepass.tasks.task import (
    COMPOSITIONAL_TASKS,
    LANGUAGES,
    MAIN_TASKS,
    SINGLE_TASKS,
    TASK_GROUPS,
    TONE_TASKS,
    TONES,
    TRANSLATIONS,
    parse_task,
    task_group,
)


@st.composite
def names(draw: st.DrawFn) -> str:
    main = draw(st.sampled_from(["", *MAIN_TASKS]))
    translation = draw(st.sampled_from(["", *TRANSLATIONS]))
    tone = draw(st.sampled_from(["", *TONE_TASKS]))
    auxiliaries = draw(st.permutations([translation, tone]))
    return "+".join(part for part in [main, *auxiliaries] if part) or "summarize"


@given(names())
def test_a_task_is_what_its_name_says(name: str) -> None:
    task = parse_task(name)
    assert task.name == name
    assert "+".join(task.parts) == name
    assert (*([task.main] if task.main else []), *task.auxiliaries) == task.parts
    assert task.is_compositional == ("+" in name)
    assert task.language in LANGUAGES
    assert task.tone in TONES
    assert (f"translate:{task.language}" in task.parts) == (task.language != "en")
    assert (f"tone:{task.tone}" in task.parts) == (task.tone != "plain")
    assert task.instruction.endswith(".")


def test_the_benchmark_has_nine_single_tasks_and_fourteen_pairs() -> None:
    assert len(SINGLE_TASKS) == len(set(SINGLE_TASKS)) == 9
    assert len(COMPOSITIONAL_TASKS) == len(set(COMPOSITIONAL_TASKS)) == 14
    groups = [task_group(parse_task(name)) for name in COMPOSITIONAL_TASKS]
    assert {group: groups.count(group) for group in TASK_GROUPS} == {
        "sum_translation": 3,
        "sum_tone": 4,
        "reply_translation": 3,
        "reply_tone": 4,
    }
    assert all(task_group(parse_task(name)) is None for name in SINGLE_TASKS)
    assert task_group(parse_task("reply+translate:es+tone:witty")) is None


def test_every_instruction_differs() -> None:
    instructions = {parse_task(name).instruction for name in SINGLE_TASKS + COMPOSITIONAL_TASKS}
    assert len(instructions) == 9 + 14


@pytest.mark.parametrize(
    ("name", "instruction", "metric"),
    [
        ("summarize", "Summarize the conversation.", "rougeL"),
        ("reply", "Suggest a reply to the conversation.", "weighted_rouge"),
        ("translate:es", "Translate the text into Spanish.", "chrf"),
        ("tone:witty", "Rewrite the text in a witty tone.", "rougeL"),
        ("tone:paraphrase", "Paraphrase the text.", "rougeL"),
        ("summarize+translate:de", "Summarize the conversation in German.", "rougeL"),
        ("summarize+tone:paraphrase", "Summarize the conversation in your own words.", "rougeL"),
        (
            "reply+translate:fr+tone:casual",
            "Suggest a reply to the conversation in French in a casual tone.",
            "weighted_rouge",
        ),
    ],
)
def test_instruction_and_metric(name: str, instruction: str, metric: str) -> None:
    task = parse_task(name)
    assert (task.instruction, task.metric) == (instruction, metric)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sumarize", "did you mean 'summarize'"),
        ("summarize+tone:wity", "'tone:witty'"),
        ("translate:en", "'translate:es'"),
        ("", "known: summarize, reply"),
        ("summarize+", "unknown task ''"),
        ("translate:es+summarize", "write it first"),
        ("summarize+reply", "one main task"),
        ("reply+translate:es+translate:fr", "one language"),
        ("reply+tone:witty+tone:witty", "one tone"),
    ],
)
def test_a_name_that_means_nothing_is_refused(name: str, message: str) -> None:
    with pytest.raises(OnepassError, match=message.replace("+", r"\+")):
        parse_task(name)
