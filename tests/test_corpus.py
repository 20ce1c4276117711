"""Examples from files: the formats, the splits, and what is said of broken files."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onepass.core.errors import OnepassError
from onepass.tasks.book import parse_task
from onepass.tasks.corpus import (
    SPLITS,
    load_corpus,
    read_examples,
    write_examples,
)
from onepass.tasks.example import Example

FIXTURES = Path(__file__).parent / "fixtures"
SUMMARIZE, REPLY = parse_task("summarize"), parse_task("reply")
COMPOSED = parse_task("summarize+translate:es")


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def many(path: Path, count: int) -> Path:
    return jsonl(path, *({"input": f"text {n}", "target": f"t{n}"} for n in range(count)))


class TestDialogSum:
    def test_a_folder_tells_its_splits_by_file_names(self) -> None:
        corpus = load_corpus(f"dialogsum:{FIXTURES / 'dialogsum'}")
        counts = [len(corpus.examples(SUMMARIZE, split)) for split in (*SPLITS, "all")]
        assert counts == [8, 3, 2, 13]
        first = corpus.examples(SUMMARIZE, "train")[0]
        assert first.id == "train_0"
        assert first.input.startswith("#Person1#: The kitchen tap")
        assert first.target.endswith("on Saturday.")

    def test_the_test_split_has_three_references(self) -> None:
        corpus = load_corpus(f"dialogsum:{FIXTURES / 'dialogsum' / 'dialogsum.test.jsonl'}")
        assert [len(e.targets) for e in corpus.examples(SUMMARIZE, "all")] == [3, 3]

    def test_the_csv_with_a_row_per_reference_is_the_same_data(self, tmp_path: Path) -> None:
        (tmp_path / "test.csv").write_text(
            'id,dialogue,summary,topic\ntest_0_1,"#Person1#: Hi\n#Person2#: Bye",They part.,x\n'
            'test_0_2,"#Person1#: Hi\n#Person2#: Bye",A short meeting.,y\n',
            encoding="utf-8",
        )
        (example,) = load_corpus(f"dialogsum:{tmp_path}").examples(SUMMARIZE, "test")
        assert example.targets == ("They part.", "A short meeting.")
        assert example.input == "#Person1#: Hi\n#Person2#: Bye"

    def test_other_tasks_have_no_targets_there(self) -> None:
        corpus = load_corpus(f"dialogsum:{FIXTURES / 'dialogsum'}")
        with pytest.raises(OnepassError, match="targets for 'summarize' only"):
            corpus.examples(COMPOSED, "train")

    def test_a_missing_split_is_named(self, tmp_path: Path) -> None:
        jsonl(tmp_path / "dialogsum.dev.jsonl", {"dialogue": "A: hi", "summary": "A greets."})
        corpus = load_corpus(f"dialogsum:{tmp_path}")
        assert len(corpus.examples(SUMMARIZE, "validation")) == 1
        with pytest.raises(OnepassError, match="no split 'train'; found validation"):
            corpus.examples(SUMMARIZE, "train")

    def test_a_row_without_a_summary_is_named(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path / "d.jsonl", {"dialogue": "A: hi"})
        with pytest.raises(OnepassError, match=r"d\.jsonl, line 1: no \"summary\""):
            load_corpus(f"dialogsum:{path}").examples(SUMMARIZE, "all")


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")).filter(
    lambda text: text.strip() == text != ""
)
examples = st.builds(
    Example,
    texts,
    texts,
    st.lists(texts, min_size=1, max_size=3).map(tuple),
    st.dictionaries(texts, st.one_of(texts, st.integers()), max_size=2),
)


@given(wanted=st.lists(examples, min_size=1, max_size=4))
def test_written_examples_read_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[Example]
) -> None:
    path = tmp_path_factory.mktemp("written") / "examples.jsonl"
    write_examples(path, wanted, COMPOSED)
    assert read_examples(path, COMPOSED) == wanted
    assert read_examples(path, REPLY) == []
    write_examples(path, wanted)
    assert read_examples(path, REPLY) == wanted


@given(count=st.integers(3, 60), order=st.randoms())
def test_one_file_is_split_without_overlap_and_whatever_its_order(
    tmp_path_factory: pytest.TempPathFactory, count: int, order: object
) -> None:
    path = tmp_path_factory.mktemp("split") / "d.jsonl"
    # Every third input stands twice, with another target.
    rows = [{"input": f"t{n}", "target": "a"} for n in range(count)]
    rows += [{"input": f"t{n}", "target": "b"} for n in range(0, count, 3)]
    jsonl(path, *rows)
    parts = {split: load_corpus(str(path)).examples(COMPOSED, split) for split in SPLITS}
    assert sum(len(part) for part in parts.values()) == len(rows)
    inputs = [{e.input for e in part} for part in parts.values()]
    assert sum(map(len, inputs)) == len(set.union(*inputs)) == count
    assert [len(part) for part in inputs[1:]] == [max(1, count // 10)] * 2

    order.shuffle(rows)  # type: ignore[attr-defined]
    jsonl(path, *rows)
    again = [{e.input for e in load_corpus(str(path)).examples(COMPOSED, s)} for s in SPLITS]
    assert again == inputs


def test_the_limit_takes_the_first(tmp_path: Path) -> None:
    corpus = load_corpus(str(many(tmp_path / "d.jsonl", 20)))
    assert corpus.examples(COMPOSED, "all", 3) == corpus.examples(COMPOSED, "all")[:3]


def test_a_folder_of_json_lines(tmp_path: Path) -> None:
    many(tmp_path / "train.jsonl", 4)
    many(tmp_path / "validation.jsonl", 2)
    corpus = load_corpus(str(tmp_path))
    assert len(corpus.examples(COMPOSED, "train")) == 4
    assert len(corpus.examples(COMPOSED, "validation")) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"target": "x"}, 'no "input"; found target'),
        ({"input": "x"}, 'no "target"; found input; name yours with --columns'),
        ({"input": "x", "target": "y", "targets": ["y"]}, 'give either "target" or "targets"'),
        ({"input": "x", "targets": []}, '"targets" must be a text that is not empty'),
        ({"input": "x", "targets": "y"}, '"targets" must be a list'),
        ({"input": "x", "target": "y", "id": [1]}, '"id" must be a text or a number'),
        (
            {"input": "x", "targets": ["y", 3]},
            '"targets" must be a text that is not empty, found 3',
        ),
        ({"input": "  ", "target": "y"}, '"input" must be a text that is not empty'),
        ({"input": "x", "target": "y", "meta": 1}, '"meta" must be an object'),
        ({"input": "x", "target": "\ud83d"}, "half a character"),
        (["x"], "expected an object"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: object, message: str) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"input": "x", "target": "y"}, row)
    with pytest.raises(OnepassError, match=r"d\.jsonl, line 2: ") as error:
        load_corpus(str(path)).examples(COMPOSED, "all")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"input": "x", "target": "y"}\n{"input": \n', r"d\.jsonl, line 2: not JSON"),
        (b"", "holds no examples"),
        (b"\n\n", "holds no examples"),
        (b'{"input": "caf\xe9", "target": "y"}', "is not UTF-8"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(content)
    with pytest.raises(OnepassError, match=message):
        load_corpus(str(path)).examples(COMPOSED, "all")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,dialogue,summary\n", "holds no examples"),
        ('id,dialogue\n1,"open\n', "not CSV"),
        ("dialogue,summary\na,b,c\n", "line 2: more columns than the header"),
        ("dialogue,summary\na\n", 'line 2: "summary" must be a text'),
    ],
)
def test_a_broken_csv_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "d.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(OnepassError, match=message):
        load_corpus(f"dialogsum:{path}").examples(SUMMARIZE, "all")


def test_too_few_examples_to_split_is_an_error(tmp_path: Path) -> None:
    corpus = load_corpus(str(many(tmp_path / "d.jsonl", 2)))
    assert len(corpus.examples(COMPOSED, "train")) == 2
    with pytest.raises(OnepassError, match=r"no examples of .* for the split 'validation'"):
        corpus.examples(COMPOSED, "validation")


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OnepassError, match="unknown corpus 'smaltown': did you mean 'smalltown'"):
        load_corpus("smaltown")
    for name in ("missing.jsonl", "dialogsum:missing", "persona-chat:missing.csv"):
        with pytest.raises(OnepassError, match="there is no file or folder missing"):
            load_corpus(name)
    corpus = load_corpus(str(many(tmp_path / "d.jsonl", 20)))
    with pytest.raises(OnepassError, match="did you mean 'train'"):
        corpus.examples(COMPOSED, "trian")


def test_an_example_needs_a_target() -> None:
    with pytest.raises(ValueError, match="no target"):
        Example("1", "x", ())
