"""Names of tasks: what they mean, and what is said of those that mean nothing."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onepass.core.errors import OnepassError
from onepass.tasks.benchmark import (
    COMPOSITIONAL_TASKS,
    MAIN_TASKS,
    SINGLE_TASKS,
    TASK_GROUPS,
    TONE_TASKS,
    TRANSLATIONS,
    task_group,
)
from onepass.tasks.book import Tasks, parse_task, read_tasks
from onepass.tasks.task import Task, combine, task_from


@st.composite
def names(draw: st.DrawFn) -> str:
    main = draw(st.sampled_from(["", *MAIN_TASKS]))
    translation = draw(st.sampled_from(["", *TRANSLATIONS]))
    tone = draw(st.sampled_from(["", *TONE_TASKS]))
    auxiliaries = draw(st.permutations([translation, tone]))
    return "+".join(part for part in [main, *auxiliaries] if part) or "summarize"


@given(names())
def test_a_task_is_what_its_name_says(name: str) -> None:
    task, parts = parse_task(name), [parse_task(part) for part in name.split("+")]
    assert task.name == name
    assert list(task.parts) == parts
    assert (*([task.main] if task.main else []), *task.auxiliaries) == task.parts
    assert task.is_compositional == ("+" in name)
    languages: list[str | None] = [p.language for p in task.auxiliaries if p.language]
    assert task.language == (languages or [task.main.language if task.main else None])[0]
    assert task.instruction.endswith(".")
    assert sum(parts[1:], parts[0]) == task
    assert task_from(task.to_json()) == task


def test_the_benchmark_has_nine_single_tasks_and_fourteen_pairs() -> None:
    assert len(SINGLE_TASKS) == len(set(SINGLE_TASKS)) == 9
    assert Tasks().names() == list(SINGLE_TASKS)
    assert len(COMPOSITIONAL_TASKS) == len(set(COMPOSITIONAL_TASKS)) == 14
    groups = [task_group(name) for name in COMPOSITIONAL_TASKS]
    assert {group: groups.count(group) for group in TASK_GROUPS} == {
        "sum_translation": 3,
        "sum_tone": 4,
        "reply_translation": 3,
        "reply_tone": 4,
    }
    assert all(task_group(name) is None for name in SINGLE_TASKS)
    assert task_group("reply+translate:es+tone:witty") is None


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


ITALIAN = Task("translate:it", "Translate into Italian.", "auxiliary", "in Italian", language="it")
TITLE = Task("title", prompt="Titolo per questo testo:\n{text}\n{{breve}}", system="Sei breve.")


def test_a_declared_task_joins_the_benchmarks() -> None:
    dates = {"name": "extract-dates", "role": "auxiliary", "instruction": "List the dates."}
    tasks = Tasks([TITLE, ITALIAN, dates])
    assert tasks.parse("title").message("Ciao {x}") == "Titolo per questo testo:\nCiao {x}\n{breve}"
    both = tasks.parse("summarize+translate:it+extract-dates")
    assert both.instruction == "Summarize the conversation in Italian, then list the dates."
    assert (both.language, both.metric) == ("it", "rougeL")
    # A prompt with no place for an instruction is followed by the phrases.
    named = tasks.parse("title+translate:it")
    assert named.message("T") == "Titolo per questo testo:\nT\n{breve}\n\nIn Italian."
    assert named.system == "Sei breve."
    assert tuple(Tasks().names()) == SINGLE_TASKS  # declarations never reach the benchmark's lists


def test_a_declared_combination_takes_the_place_of_what_is_made(tmp_path: Path) -> None:
    path = tmp_path / "tasks.yaml"
    path.write_text(
        "tasks:\n- {name: 'title', prompt: 'Titolo: {text}'}\n"
        "- {name: 'title+tone:witty', instruction: Un titolo spiritoso., max_new_tokens: 9}\n",
        encoding="utf-8",
    )
    task = read_tasks(path).parse("title+tone:witty")
    assert task.message("T") == "Un titolo spiritoso.\n\nT"
    assert [part.name for part in task.parts] == ["title", "tone:witty"]
    assert task.max_new_tokens == 9


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"name": "x", "prompt": "no place"}, r"\{text\} 0 times"),
        ({"name": "x", "prompt": "{text} {text}"}, r"\{text\} 2 times"),
        ({"name": "x", "prompt": "{text:.3}"}, "would change it"),
        ({"name": "x", "prompt": "{text!r}"}, "would change it"),
        ({"name": "x", "prompt": "{text} {question}"}, r"field \{question\}"),
        ({"name": "x", "prompt": "{text} {"}, "double a brace"),
        ({"name": "x"}, "says nothing of what to do"),
        ({"instruction": "Do."}, "needs a name"),
        ({"name": "a b", "instruction": "Do."}, "cannot be called 'a b'"),
        ({"name": "summarize", "instruction": "Do."}, "'summarize' is the benchmark's"),
        ({"name": "tone-witty", "instruction": "Do."}, "share a folder with 'tone:witty'"),
        ({"name": "x", "instruktion": "Do."}, "did you mean 'instruction'"),
        ({"name": "x", "instruction": "Do.", "language": False}, "YAML reads"),
        ({"name": "x", "instruction": "Do.", "max_new_tokens": 0}, "a number of tokens"),
        ({"name": "x", "instruction": "Do.", "role": "aux"}, "main or auxiliary"),
        ({"name": "summarize+traslate:es"}, "did you mean 'translate:es'"),
        ("summarize", "fields with values"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(declared: Any, message: str) -> None:
    with pytest.raises(OnepassError, match=message):
        Tasks([declared], "tasks.yaml")


def test_parts_that_no_output_can_satisfy_are_refused() -> None:
    other = Task("italian", "Write in Italian.", "auxiliary", "in Italian", language="it")
    with pytest.raises(OnepassError, match="one language, found translate:it and italian"):
        combine([parse_task("reply"), ITALIAN, other])
    silent = Task("loud", role="auxiliary", prompt="LOUD: {text}")
    with pytest.raises(OnepassError, match="neither a phrase nor an instruction"):
        combine([parse_task("reply"), silent])


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "x: 1",
        "- title",
        "- name: title+reply",
        "- {name: a, instruction: A.}\n- {name: a, instruction: B.}",
    ],
)
def test_a_file_of_tasks_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(OnepassError, match=r"tasks\.yaml"):
        read_tasks(tmp_path / "tasks.yaml")
