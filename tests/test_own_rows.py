"""Rows of one's own: any layout, any format, in a file or in memory, give the same examples."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora_kit import (
    SPANISH,
    SUMMARIZE,
    Rows,
    write_csv,
    write_json,
    write_jsonl,
    write_parquet,
)
from onepass.core.errors import OnepassError
from onepass.tasks.corpora.source import SPLITS
from onepass.tasks.corpus import load_corpus
from onepass.tasks.data import corpus_of, examples_of, predictions_of, texts_of
from onepass.tasks.example import Example

REAL = Path(__file__).parents[2] / "shared" / "data"


def write_tsv(path: Path, rows: Rows) -> None:
    write_csv(path, rows, delimiter="\t")


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    "jsonl": write_jsonl,
    "json": write_json,
    "csv": write_csv,
    "tsv": write_tsv,
    "parquet": write_parquet,
}

odd = st.sampled_from(
    ['"', "\t", "\n", "\r\n", "\r", "\u2028", "\x85", "😀", ",", "'", "\ufeff", "[1]"]
)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
texts = st.lists(odd | words, min_size=1, max_size=5).map("".join).filter(str.strip)


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(texts, texts), min_size=1, max_size=12),
    ids=st.lists(st.integers(0, 99), unique=True, min_size=12, max_size=12),
    without=st.integers(0, 12),
)
def test_the_same_rows_are_the_same_examples_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, rows: Any, ids: list[int], without: int
) -> None:
    pytest.importorskip("pyarrow")
    data = [
        {"id": None if n < without else ids[n], "input": text, "target": target, "meta": None}
        for n, (text, target) in enumerate(rows)
    ]
    folder = tmp_path_factory.mktemp("formats")
    wanted = {split: some(data, split) for split in (*SPLITS, "all")}
    assert sum(len(wanted[split]) for split in SPLITS) == len(rows)
    assert [(e.input, e.target) for e in wanted["all"]] == [
        tuple("\n".join(re.split("\r\n|\r", text)).strip() for text in row) for row in rows
    ]
    for ending, write in WRITERS.items():
        file = folder / f"{ending}-rows.{ending}"
        write(file, data)
        assert {split: some(file, split) for split in wanted} == wanted, ending
        assert [tuple(text) for text in texts_of(file)] == [
            (example.id, example.input) for example in wanted["all"]
        ]


def some(data: Any, split: str) -> list[Example]:
    try:
        return examples_of(data, SUMMARIZE, split=split)
    except OnepassError as error:  # too few for every split to have one
        if "give more examples" not in str(error):
            raise
        return []


def said(*turns: tuple[str, Any], keys: tuple[str, str] = ("role", "content")) -> list[Any]:
    return [dict(zip(keys, turn, strict=True)) for turn in turns]


HUMAN = ("from", "value")
CHAT = [("user", "Hi"), ("assistant", "Hello"), ("user", "Tea?")]

LAYOUTS = [
    ({"input": "a", "target": "b"}, "a", ("b",)),
    ({"input": "a", "targets": ["b", "c"]}, "a", ("b", "c")),
    ({"input": "a", "output": "b"}, "a", ("b",)),
    ({"prompt": "a", "completion": "b"}, "a", ("b",)),
    ({"dialogue": "a", "summary": "b", "topic": "x"}, "a", ("b",)),
    ({"dialogue": "a", "summary1": "b", "summary2": "c"}, "a", ("b", "c")),
    ({"instruction": "do", "input": "a", "output": "b"}, "do\n\na", ("b",)),
    ({"instruction": "do", "input": "", "output": "b"}, "do", ("b",)),
    ({"messages": said(("user", "a"), ("assistant", "b"))}, "a", ("b",)),
    (
        {"messages": said(*CHAT, ("assistant", "Yes"))},
        "User: Hi\nAssistant: Hello\nUser: Tea?",
        ("Yes",),
    ),
    ({"conversations": said(("human", "a"), ("gpt", "b"), keys=HUMAN)}, "a", ("b",)),
]


@pytest.mark.parametrize("ending", list(WRITERS))
@pytest.mark.parametrize(("row", "text", "targets"), LAYOUTS)
def test_every_layout_in_every_format(
    row: dict[str, Any], text: str, targets: tuple[str, ...], ending: str, tmp_path: Path
) -> None:
    file = tmp_path / f"rows.{ending}"
    if ending in ("csv", "tsv"):  # lists are written as JSON there
        row = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
    if ending == "parquet":
        pytest.importorskip("datasets")
    WRITERS[ending](file, [row])
    wanted = [Example("row-1", text, targets)]
    assert examples_of(file, SUMMARIZE) == examples_of([row], SUMMARIZE) == wanted
    assert texts_of(file) == texts_of([row]) == [("row-1", text)]


def test_a_system_message_is_kept_apart_and_other_meta_with_it() -> None:
    turns = said(("system", "Be brief."), ("user", "a"), ("assistant", "b"))
    (example,) = examples_of([{"messages": turns, "meta": {"group": 7, "none": None}}], SUMMARIZE)
    assert example == Example("row-1", "a", ("b",), {"system": "Be brief.", "group": 7})


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (said(*CHAT), "ends with a message of the user; the last one is the target"),
        (said(("assistant", "x")), "has no message of a user"),
        (said(("user", "a"), ("assistant", "")), '"messages" 2: "content" must be a text'),
        (said(("user", 3), ("assistant", "b")), '"messages" 1: "content" must be a text'),
        (["hi", "yes"], "expected an object of role and content, found 'hi'"),
        ("no JSON", "\"messages\" must be a list, found 'no JSON'"),
    ],
)
def test_messages_that_are_no_example(messages: Any, words: str) -> None:
    with pytest.raises(OnepassError, match=r"^row 2 of the data") as error:
        examples_of([LAYOUTS[8][0], {"messages": messages}], SUMMARIZE)
    assert words in str(error.value)


def test_a_conversation_that_ends_with_the_user_is_an_input() -> None:
    (text,) = texts_of([{"messages": said(*CHAT)}])
    assert text.text == "User: Hi\nAssistant: Hello\nUser: Tea?"


class TestColumns:
    ROWS: Rows = [  # noqa: RUF012
        {"key": 7, "chat": "a", "short": "b", "dialogue": "x", "summary": "y", "task": "other"},
        {"key": 8, "chat": "c", "short": "d", "dialogue": "x", "summary": "y", "task": "other"},
    ]

    @pytest.mark.parametrize("ending", list(WRITERS))
    def test_named_columns_count_and_no_others(self, ending: str, tmp_path: Path) -> None:
        if ending == "parquet":
            pytest.importorskip("datasets")
        file = tmp_path / f"rows.{ending}"
        WRITERS[ending](file, self.ROWS)
        columns = {"input": "chat", "target": "short", "id": "key", "task": ""}
        wanted = [Example("7", "a", ("b",)), Example("8", "c", ("d",))]
        assert load_corpus(str(file), columns).examples(SUMMARIZE, "all") == wanted
        assert texts_of(file, {"input": "chat", "id": "key"}) == [("7", "a"), ("8", "c")]

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            ({"input": "chta"}, "no column 'chta' for input; the columns are key, chat, short"),
            ({"inputs": "chat"}, "unknown name for a column 'inputs': did you mean 'input'"),
            (
                {"input": "chat", "task": ""},
                'no "target"; found key, chat, short, summary, input; name',
            ),
            ({}, '"task" names other; --columns task= leaves that out'),
        ],
    )
    def test_what_there_is_not(self, columns: dict[str, str], words: str) -> None:
        with pytest.raises(OnepassError) as error:
            examples_of(self.ROWS, SUMMARIZE, columns)
        assert words in str(error.value)

    def test_a_corpus_with_columns_of_its_own_takes_none(self) -> None:
        with pytest.raises(OnepassError, match="'ted' has columns of its own"):
            load_corpus("ted", {"input": "en"})


class TestInMemory:
    PAIRS = (("a", "b"), ("c", ["d", "e"]))
    WANTED = (Example("row-1", "a", ("b",)), Example("row-2", "c", ("d", "e")))

    def test_pairs_dicts_and_examples(self) -> None:
        dicts = [{"input": "a", "target": "b"}, {"input": "c", "targets": ["d", "e"]}]
        for data in (list(self.PAIRS), dicts, list(self.WANTED), iter(dicts)):
            assert examples_of(data, SUMMARIZE) == list(self.WANTED)

    def test_data_sets_and_frames(self) -> None:
        datasets, pandas = map(pytest.importorskip, ("datasets", "pandas"))
        rows = [{"id": "x", "prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
        wanted = [Example("x", "a", ("b",)), Example("row-2", "c", ("d",))]
        data = datasets.Dataset.from_list(rows)
        assert examples_of(data, SUMMARIZE) == wanted
        assert examples_of(pandas.DataFrame(rows), SUMMARIZE) == wanted
        corpus = corpus_of(datasets.DatasetDict(train=data, validation=data))
        assert [e.id for e in corpus.examples(SUMMARIZE, "validation")] == ["x", "validation-2"]
        with pytest.raises(OnepassError, match="no split 'test'; found train, validation"):
            corpus.examples(SUMMARIZE, "test")
        chat = pandas.DataFrame([{"messages": said(("user", "a"), ("assistant", "b"))}])
        assert examples_of(chat, SUMMARIZE) == [Example("row-1", "a", ("b",))]

    def test_a_corpus_is_itself(self) -> None:
        corpus = load_corpus("dialogsum")
        assert corpus_of(corpus) is corpus

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ([3], "row 1 of the data: expected a dict or an"),
            ({"input": ["a"]}, "data of type dict: give a path, or rows"),
            (None, "data of type NoneType"),
            ([("a", "\ud800")], '"target" has half a character'),
            ([{"id": "\ud800", "input": "a", "target": "b"}], '"id" has half a character'),
            ([], "no examples of 'summarize'"),
        ],
    )
    def test_what_is_no_data(self, data: Any, words: str) -> None:
        with pytest.raises(OnepassError) as error:
            examples_of(data, SUMMARIZE)
        assert words in str(error.value)


class TestTexts:
    def test_a_text_and_texts(self, tmp_path: Path) -> None:
        assert texts_of("Ana: Hi.") == [("row-1", "Ana: Hi.")]
        assert texts_of(["a", "b"]) == [("row-1", "a"), ("row-2", "b")]
        file = tmp_path / "chat.txt"
        file.write_bytes("\ufeffa\u2028b\r\n\r\nc\x85d".encode())
        assert texts_of(file) == [("chat.txt", "a\u2028b\n\nc\x85d")]
        with pytest.raises(OnepassError, match="is a file, not a text; give Path"):
            texts_of(str(file))
        lines = texts_of(file, format="lines")
        assert lines == [("line 1", "a\u2028b"), ("line 3", "c\x85d")]

    def test_a_folder_of_rows_and_one_of_its_files_have_the_same_ids(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "my.test.csv", [{"input": "a"}, {"input": "b"}])
        wanted = [("test-1", "a"), ("test-2", "b")]
        assert texts_of(tmp_path) == texts_of(tmp_path / "my.test.csv") == wanted


@pytest.mark.parametrize("ending", list(WRITERS))
def test_predictions_are_read_from_every_format(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        pytest.importorskip("datasets")
    WRITERS[ending](file, [{"id": 1, "prediction": "x"}, {"id": 2, "prediction": ""}])
    assert predictions_of(file) == {"1": "x", "2": ""}


class TestTables:
    def test_quotes_that_are_text_in_a_tsv_file(self, tmp_path: Path) -> None:
        file = tmp_path / "pairs.tsv"
        file.write_text('input\ttarget\n"No," he said.\tx\n5" wide\t"y\nlast\tz"\n')
        found = [(e.input, e.target) for e in examples_of(file, SPANISH)]
        assert found == [('"No," he said.', "x"), ('5" wide', '"y'), ("last", 'z"')]

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("a.tsv", 'input\ttarget\n"a\tb\nc\n', "line 3: not TSV with quotes"),
            ("a.csv", "input,input\na,b\n", "two columns are called 'input'"),
            ("a.json", '[{"input": "a", "target": "b"}, 3]', "row 2: expected an object, found 3"),
            ("a.json", "[]", "holds no examples"),
            ("a.json", '{"data":\n []}', "line 1: not JSON"),
            ("a.parquet", "PAR1", "corrupt, cut short"),
        ],
    )
    def test_broken_files(self, name: str, content: str, words: str, tmp_path: Path) -> None:
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        (tmp_path / name).write_text(content)
        with pytest.raises(OnepassError) as error:
            examples_of(tmp_path / name, SPANISH)
        assert words in str(error.value)

    def test_json_lines_in_a_json_file(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.json", [{"input": "a", "target": "b"}] * 2)
        assert len(examples_of(tmp_path / "a.json", SPANISH)) == 2

    def test_a_split_in_two_formats_is_not_read_twice(self, tmp_path: Path) -> None:
        rows: Rows = [{"input": "a", "target": "b"}]
        write_csv(tmp_path / "train.csv", rows)
        write_jsonl(tmp_path / "train.jsonl", rows)
        with pytest.raises(OnepassError, match=r"'train' in two formats, as train\.csv and"):
            examples_of(tmp_path, SPANISH)


@pytest.mark.parametrize(
    ("name", "columns", "count"),
    [
        ("tatoeba_multi/test.tsv", {"input": "en", "target": "es"}, 500),
        ("pud/all.tsv", {"input": "en", "target": "es"}, 1000),
        ("explore_instruct/rewrites.jsonl", {"task": ""}, 1300),
        ("dialogsumx_fr/dev.jsonl", {"input": "dialogue", "target": "summary_fr"}, 100),
    ],
)
def test_real_files(name: str, columns: dict[str, str], count: int) -> None:
    if not (REAL / name).exists():
        pytest.skip(f"the real data set is not here: {REAL / name}")
    assert len(examples_of(REAL / name, SPANISH, columns)) == count
