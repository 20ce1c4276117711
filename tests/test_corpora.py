"""The public corpora in every layout they come in: the same examples."""

from pathlib import Path
from typing import Any

import pytest

from corpora_kit import (
    CASUAL,
    CONVERSATION,
    REPLY,
    SPANISH,
    SUMMARIZE,
    UPSTREAM,
    WITTY,
    HubLayout,
    Rows,
    chats,
    cloned,
    converted_parquet,
    data_json,
    data_jsonl,
    data_parquet,
    dialogsum_rows,
    plain_csv,
    two_shards,
    with_configs,
    write_csv,
    write_jsonl,
    write_tsv,
)
from onepass.core.errors import OnepassError
from onepass.tasks.book import parse_task
from onepass.tasks.corpora.facts import facts_of
from onepass.tasks.corpus import (
    CORPORA,
    SPLITS,
    corpus_seen_from,
    load_corpus,
    write_examples,
)
from onepass.tasks.example import Example
from onepass.tasks.task import Task

FIXTURES = Path(__file__).parent / "fixtures"

TABLES = [plain_csv, data_parquet, two_shards, data_jsonl, data_json, with_configs, cloned]
NESTED = [data_parquet, two_shards, converted_parquet, data_jsonl, data_json]


def all_of(name: str, *tasks: Any) -> dict[tuple[str, str], list[Example]]:
    corpus = load_corpus(name)
    return {(task.name, split): corpus.examples(task, split) for task in tasks for split in SPLITS}


@pytest.mark.parametrize("layout", TABLES)
def test_dialogsum_is_the_same_in_every_layout(layout: HubLayout, tmp_path: Path) -> None:
    up, hub = dialogsum_rows()
    for split, rows in up.items():
        write_jsonl(tmp_path / "up" / f"dialogsum.{UPSTREAM[split]}.jsonl", rows)
    layout(tmp_path / "hub", hub)
    wanted = all_of(f"dialogsum:{tmp_path / 'up'}", SUMMARIZE)
    assert [len(e.targets) for e in wanted["summarize", "test"]] == [3, 3, 3, 3]
    assert wanted["summarize", "test"][1].id == "test_1"
    assert all_of(f"dialogsum:{tmp_path / 'hub'}", SUMMARIZE) == wanted


@pytest.mark.parametrize("layout", TABLES)
def test_persona_chat_is_the_same_in_every_layout(layout: HubLayout, tmp_path: Path) -> None:
    data = {split: chats(4, split) for split in SPLITS}
    for split, rows in data.items():
        name = {"validation": "valid"}.get(split, split)
        write_csv(tmp_path / "up" / f"Synthetic-Persona-Chat_{name}.csv", rows)
    layout(tmp_path / "hub", data)
    wanted = all_of(f"persona-chat:{tmp_path / 'up'}", REPLY)
    assert [len(examples) for examples in wanted.values()] == [1 + 2 + 3 + 4] * 3
    assert all_of(f"persona-chat:{tmp_path / 'hub'}", REPLY) == wanted


def talks(mark: str = "") -> Rows:
    """Rows of five talks, one sentence in five without Spanish and one without German."""
    rows = []
    for n in range(25):
        row = {"talk_name": f"talk {n // 5}", "en": f'It &apos;s {mark} " {n} .'}
        row |= {language: f"{language} {mark} {n} ." for language in ("es", "fr", "de")}
        if n % 5 == 1:
            row["es"] = "__NULL__"
        if n % 5 == 2:
            row["de"] = "_ _ NULL _ _"
        rows.append(row)
    return rows


def as_on_the_hub(rows: Rows) -> Rows:
    """There what is missing is left out."""
    found = []
    for row in rows:
        texts = {k: v for k, v in row.items() if k != "talk_name" and "NULL" not in v}
        pairs = {"language": list(texts), "translation": list(texts.values())}
        found.append({"translations": pairs, "talk_name": row["talk_name"]})
    return found


TRANSLATIONS = [parse_task(f"translate:{language}") for language in ("es", "fr", "de")]


@pytest.mark.parametrize("layout", NESTED)
def test_ted_is_the_same_in_every_layout(layout: HubLayout, tmp_path: Path) -> None:
    data = {split: talks(split) for split in SPLITS}
    for split, rows in data.items():
        write_tsv(tmp_path / "up" / f"all_talks_{UPSTREAM[split]}.tsv", rows)
    layout(tmp_path / "hub", {split: as_on_the_hub(rows) for split, rows in data.items()})
    wanted = all_of(f"ted:{tmp_path / 'up'}", *TRANSLATIONS)
    assert [len(wanted[f"translate:{x}", "test"]) for x in ("es", "fr", "de")] == [20, 25, 20]
    first = min(wanted["translate:es", "test"], key=lambda e: int(e.id.partition("-")[2]))
    assert first == Example("test-1", "It 's test \" 0 .", ("es test 0 .",), {"group": "talk 0"})
    assert all_of(f"ted:{tmp_path / 'hub'}", *TRANSLATIONS) == wanted


def test_several_translations_are_several_targets(tmp_path: Path) -> None:
    pairs = {"language": ["es", "en", "es"], "translation": ["Hola .", "Hi .", "Buenas ."]}
    data_parquet(tmp_path, {"train": [{"talk_name": "t", "translations": pairs}]})
    (example,) = load_corpus(f"ted:{tmp_path}").examples(SPANISH, "train")
    assert (example.input, example.targets) == ("Hi .", ("Hola .", "Buenas ."))


def test_the_files_of_a_folder_come_before_those_of_folders_in_it(tmp_path: Path) -> None:
    write_csv(tmp_path / "old" / "train.csv", chats(4))
    corpus = load_corpus(f"persona-chat:{tmp_path}")
    assert len(corpus.examples(REPLY, "train")) == 10
    write_csv(tmp_path / "train.csv", chats(1))
    assert len(corpus.examples(REPLY, "train")) == 1


def test_tones_are_a_column_each_and_any_may_be_missing(tmp_path: Path) -> None:
    rows: Rows = [
        {"text": "We are late.", "casual": "We're running late!", "witty": ""},
        {"text": "It rains.", "casual": "Grab a brolly!", "witty": "Liquid sunshine."},
    ]
    write_csv(tmp_path / "csv" / "train.csv", rows)
    del rows[0]["witty"]
    write_jsonl(tmp_path / "jsonl" / "train.jsonl", rows)
    for folder in ("csv", "jsonl"):
        corpus = load_corpus(f"tone:{tmp_path / folder}")
        casual, witty = (corpus.examples(task, "train") for task in (CASUAL, WITTY))
        assert [(e.id, e.input, e.target) for e in casual] == [
            ("train-1", "We are late.", "We're running late!"),
            ("train-2", "It rains.", "Grab a brolly!"),
        ]
        assert [(e.id, e.target) for e in witty] == [("train-2", "Liquid sunshine.")]
        with pytest.raises(OnepassError, match="no examples of 'tone:professional'"):
            corpus.examples(parse_task("tone:professional"), "train")


def test_several_rewritings_are_several_targets(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "paraphrase": ["a", f"b{n}"], "id": f"s{n}"} for n in range(3)]
    data_parquet(tmp_path, {"train": rows})
    corpus = load_corpus(f"tone:{tmp_path}")
    found = corpus.examples(parse_task("tone:paraphrase"), "train")
    assert [(e.id, e.targets) for e in found] == [(f"s{n}", ("a", f"b{n}")) for n in range(3)]


class TestEveryTurnIsAReply:
    def test_the_turns_before_are_the_input(self) -> None:
        corpus = load_corpus(f"persona-chat:{FIXTURES / 'persona_chat.csv'}")
        found = {e.id: e for e in corpus.examples(REPLY, "all")}
        assert sorted(found) == [
            *(f"row-1/{turn}" for turn in (2, 3, 4)),
            *(f"row-2/{turn}" for turn in (2, 3)),
            *(f"row-3/{turn}" for turn in (2, 3)),
        ]
        example = found["row-1/3"]
        assert example.input == "User 1: Good morning!\nUser 2: Good morning! Is that honey?"
        assert example.target == "It is, from my own bees."
        # Neither markup nor stage directions are part of a reply.
        assert found["row-3/3"].target == "I did, it's lovely!"
        assert found["row-3/2"].target == "Did you see my blue sloop?"

    def test_a_turn_without_a_word_is_no_reply(self, tmp_path: Path) -> None:
        rows = [{CONVERSATION: "User 1: Hi!\nUser 2: **\nUser 1: Are you there?"}]
        write_csv(tmp_path / "chat.csv", rows)
        (example,) = load_corpus(f"persona-chat:{tmp_path / 'chat.csv'}").examples(REPLY, "all")
        assert (example.id, example.target) == ("row-1/3", "Are you there?")

    def test_what_a_speaker_lists_belongs_to_the_turn(self, tmp_path: Path) -> None:
        text = "User 1: What do I need?\nUser 2: This:\nan egg\n[She thinks.]\nand flour"
        write_csv(tmp_path / "chat.csv", [{CONVERSATION: text}])
        (example,) = load_corpus(f"persona-chat:{tmp_path / 'chat.csv'}").examples(REPLY, "all")
        assert example.target == "This:\nan egg\nand flour"


@pytest.mark.parametrize(("kind", "task"), [("persona-chat", REPLY), ("ted", SPANISH)])
def test_one_file_is_split_by_conversation_and_by_talk(
    kind: str, task: Any, tmp_path: Path
) -> None:
    if kind == "ted":
        write_tsv(
            tmp_path / "x.tsv", [{**r, "talk_name": f"{n % 9}"} for n, r in enumerate(talks())]
        )
    else:
        write_csv(tmp_path / "x.csv", [*chats(30), *chats(2)])  # two conversations stand twice
    (file,) = tmp_path.iterdir()
    corpus = load_corpus(f"{kind}:{file}")
    parts = [corpus.examples(task, split) for split in SPLITS]
    groups = [{e.meta["group"] for e in part} for part in parts]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups))
    whole = corpus.examples(task, "all")
    assert sorted(e.id for part in parts for e in part) == sorted(e.id for e in whole)


def test_the_first_examples_are_of_many_conversations(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", chats(40))
    corpus = load_corpus(f"persona-chat:{tmp_path}")
    found = corpus.examples(REPLY, "train")
    assert found[:20] == corpus.examples(REPLY, "train", 20)
    assert len({e.meta["group"] for e in found[:20]}) > 10


@pytest.mark.parametrize("layout", [plain_csv, data_parquet, data_jsonl])
@pytest.mark.parametrize(
    "text",
    ["A: \U0001f469‍\U0001f680 \U0001f44d\U0001f3fd", "A: שלום\nB: مرحبا ‏", "A: a\x00b\nB: \x00"],
    ids=["emoji", "right to left", "NUL"],
)
def test_any_text_stays_as_it_is(text: str, layout: HubLayout, tmp_path: Path) -> None:
    layout(tmp_path, {"train": [{"id": "1", "dialogue": text, "summary": text[3:].strip()}]})
    (example,) = load_corpus(f"dialogsum:{tmp_path}").examples(SUMMARIZE, "train")
    assert (example.input, example.target) == (text.strip(), text[3:].strip())


@pytest.mark.parametrize("layout", [plain_csv, data_parquet, data_jsonl])
def test_a_conversation_of_200_000_characters(layout: HubLayout, tmp_path: Path) -> None:
    long = "\n".join(f"User {1 + n % 2}: {'x' * 490}" for n in range(400))
    layout(tmp_path, {"train": [{**row, CONVERSATION: long} for row in chats(1)]})
    corpus = load_corpus(f"persona-chat:{tmp_path}")
    assert len(corpus.examples(REPLY, "train")) == 399


def test_a_long_line_of_a_table(tmp_path: Path) -> None:
    write_tsv(tmp_path / "train.tsv", [{"talk_name": "t", "en": "x" * 200_000, "es": "y"}])
    (example,) = load_corpus(f"ted:{tmp_path}").examples(SPANISH, "train")
    assert len(example.input) == 200_000


def test_exported_turns_keep_their_conversation_whole(tmp_path: Path) -> None:
    write_csv(tmp_path / "chats.csv", chats(30))
    every = load_corpus(f"persona-chat:{tmp_path / 'chats.csv'}").examples(REPLY, "all")
    write_examples(tmp_path / "mine.jsonl", every, REPLY)
    corpus = load_corpus(str(tmp_path / "mine.jsonl"))
    groups = [{e.meta["group"] for e in corpus.examples(REPLY, split)} for split in SPLITS]
    assert [len(each) for each in groups] == [24, 3, 3]
    assert len(set.union(*groups)) == 30


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("smalltown", "smalltown"),
        ("dialogsum", "dialogsum"),
        ("ted:hub:a/b@c", "ted:hub:a/b@c"),
        ("hub:a/b", "hub:a/b"),
        ("ted:talks", "ted:recipes/talks"),
        ("ted:/talks", "ted:/talks"),
        ("mine.jsonl", "recipes/mine.jsonl"),
    ],
)
def test_paths_in_a_recipe_are_relative_to_it(name: str, seen: str) -> None:
    assert corpus_seen_from(Path("recipes"), name) == seen


def test_ids_are_unique_where_a_split_has_several_files(tmp_path: Path) -> None:
    for part in (1, 2):
        write_csv(tmp_path / f"train-{part}.csv", chats(3, str(part)))
    found = load_corpus(f"persona-chat:{tmp_path}").examples(REPLY, "train")
    assert len({e.id for e in found}) == len(found) == 12


def test_every_corpus_has_its_facts() -> None:
    for name in CORPORA:
        facts = facts_of(name)
        assert facts.title
        assert facts.licence
        assert facts.homepage
        assert all(Task(task, prompt="{text}").name == task for task in facts.tasks)
        assert {"title", "tasks", "licence", "citation"} <= {word for word, _ in facts.lines()}
