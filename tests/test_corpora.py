"""The public corpora in every layout they come in: the same examples; and what is refused."""

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from onepass.core.errors import OnepassError
from onepass.tasks.corpora.facts import facts_of
from onepass.tasks.corpus import CORPORA, SPLITS, load_corpus
from onepass.tasks.example import Example
from onepass.tasks.task import parse_task

FIXTURES = Path(__file__).parent / "fixtures"
SUMMARIZE, REPLY, SPANISH = map(parse_task, ("summarize", "reply", "translate:es"))
CASUAL, WITTY = map(parse_task, ("tone:casual", "tone:witty"))
UPSTREAM = {"train": "train", "validation": "dev", "test": "test"}
"""The words for splits in the names of upstream files."""

Rows = list[dict[str, Any]]
Splits = dict[str, Rows]


def write_csv(path: Path, rows: Rows, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0], **options)
        writer.writeheader()
        writer.writerows(rows)


def write_tsv(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [list(rows[0]), *(row.values() for row in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def write_jsonl(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_json(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")


def write_parquet(path: Path, rows: Rows) -> None:
    datasets = pytest.importorskip("datasets")
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(path)


HubLayout = Callable[[Path, Splits], None]


def plain_csv(folder: Path, data: Splits) -> None:
    for split, rows in data.items():
        write_csv(folder / f"{split}.csv", rows)


def data_parquet(folder: Path, data: Splits) -> None:
    for split, rows in data.items():
        write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", rows)


def two_shards(folder: Path, data: Splits) -> None:
    for split, rows in data.items():
        for number, part in enumerate((rows[:2], rows[2:])):
            write_parquet(folder / f"data/{split}-0000{number}-of-00002.parquet", part)


def converted_parquet(folder: Path, data: Splits) -> None:
    """As in the hub's refs/convert/parquet."""
    for split, rows in data.items():
        write_parquet(folder / "plain_text" / split / "0000.parquet", rows)


def data_jsonl(folder: Path, data: Splits) -> None:
    for split, rows in data.items():
        write_jsonl(folder / "data" / f"{split}.jsonl", rows)


def data_json(folder: Path, data: Splits) -> None:
    for split, rows in data.items():
        write_json(folder / "data" / f"{split}.json", rows)


def with_configs(folder: Path, data: Splits) -> None:
    """Its card says which file is which split; that of another configuration is not read."""
    card = "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n"
    for number, (split, rows) in enumerate(data.items()):
        write_csv(folder / f"part{number}.csv", rows)
        card += f"  - split: {split}\n    path: part{number}.csv\n"
    write_csv(folder / "train-of-something-else.csv", [{"a": "1"}])
    (folder / "README.md").write_text(f"{card}---\n# A card\n", encoding="utf-8")


def cloned(folder: Path, data: Splits) -> None:
    """A clone has more than data."""
    data_parquet(folder, data)
    (folder / ".git").mkdir()
    (folder / ".git" / "train.csv").write_text("no data")
    (folder / ".gitattributes").write_text("*.parquet filter=lfs\n")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A card\n", encoding="utf-8")


TABLES = [plain_csv, data_parquet, two_shards, data_jsonl, data_json, with_configs, cloned]
NESTED = [data_parquet, two_shards, converted_parquet, data_jsonl, data_json]


def all_of(name: str, *tasks: Any) -> dict[tuple[str, str], list[Example]]:
    corpus = load_corpus(name)
    return {(task.name, split): corpus.examples(task, split) for task in tasks for split in SPLITS}


def dialogsum_rows() -> tuple[Splits, Splits]:
    """Upstream's rows and the hub's of the same conversations."""
    up: Splits = {}
    hub: Splits = {}
    for split, word in UPSTREAM.items():
        up[split], hub[split] = [], []
        for n in range(4):
            text = f'#Person1#: Is it {n} o\'clock?\n#Person2#: Not before {word}, "dear".'
            row = {"fname": f"{word}_{n}", "dialogue": text}
            if split == "test":
                references = {f"summary{k}": f"They tell time, {n}-{k}." for k in (1, 2, 3)}
                hub[split] += [
                    {"id": f"test_{n}_{k}", "dialogue": text, "summary": summary, "topic": "time"}
                    for k, summary in enumerate(references.values(), start=1)
                ]
            else:
                references = {"summary": f"They tell {word} time {n}."}
                topic = {"topic": "time"}
                hub[split].append({"id": f"{word}_{n}", "dialogue": text, **references, **topic})
            up[split].append({**row, **references})
    return up, hub


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


CONVERSATION = "Best Generated Conversation"


def chats(count: int, mark: str = "") -> Rows:
    """Conversations of 2, 3, 4, ... turns."""
    return [
        {
            "user 1 personas": "I sail.",
            "user 2 personas": "I mend clocks.",
            CONVERSATION: "\n".join(
                f"User {1 + turn % 2}: {mark} {n}, {turn}." for turn in range(n + 2)
            ),
        }
        for n in range(count)
    ]


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
            *(f"persona_chat-1/{turn}" for turn in (2, 3, 4)),
            *(f"persona_chat-2/{turn}" for turn in (2, 3)),
            *(f"persona_chat-3/{turn}" for turn in (2, 3)),
        ]
        example = found["persona_chat-1/3"]
        assert example.input == "User 1: Good morning!\nUser 2: Good morning! Is that honey?"
        assert example.target == "It is, from my own bees."
        # Neither markup nor stage directions are part of a reply.
        assert found["persona_chat-3/3"].target == "I did, it's lovely!"
        assert found["persona_chat-3/2"].target == "Did you see my blue sloop?"

    def test_a_turn_without_a_word_is_no_reply(self, tmp_path: Path) -> None:
        rows = [{CONVERSATION: "User 1: Hi!\nUser 2: **\nUser 1: Are you there?"}]
        write_csv(tmp_path / "chat.csv", rows)
        (example,) = load_corpus(f"persona-chat:{tmp_path / 'chat.csv'}").examples(REPLY, "all")
        assert (example.id, example.target) == ("chat-1/3", "Are you there?")

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


class TestHub:
    @pytest.fixture
    def asked(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What `datasets.load_dataset` is asked for; it answers with DialogSum's test split."""
        datasets = pytest.importorskip("datasets")
        calls: list[Any] = []

        def load_dataset(*args: Any, **options: Any) -> Any:
            calls.append((args, options))
            rows = dialogsum_rows()[1]["test"]
            return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    @pytest.mark.parametrize(
        ("name", "repository", "revision"),
        [
            ("dialogsum", "knkarthick/dialogsum", None),
            ("dialogsum:hub:my-org/copy.1", "my-org/copy.1", None),
            ("dialogsum:hub:my-org/copy@v2", "my-org/copy", "v2"),
        ],
    )
    def test_a_name_is_a_data_set(
        self, name: str, repository: str, revision: str | None, asked: list[Any]
    ) -> None:
        found = load_corpus(name).examples(SUMMARIZE, "test")
        assert asked == [((repository,), {"revision": revision})]
        assert [len(e.targets) for e in found] == [3, 3, 3, 3]
        with pytest.raises(OnepassError, match=f"{repository} has no split 'train'; found test"):
            load_corpus(name).examples(SUMMARIZE, "train")

    def test_nothing_is_loaded_before_it_is_asked_for(self, asked: list[Any]) -> None:
        for name in ("dialogsum", "persona-chat", "ted"):
            load_corpus(name)
        assert asked == []

    @pytest.mark.parametrize("name", ["dialogsum:hub:", "dialogsum:hub:copy", "ted:hub:a/b/c"])
    def test_a_name_that_none_can_have(self, name: str) -> None:
        with pytest.raises(OnepassError, match="is not OWNER/NAME or OWNER/NAME@REVISION"):
            load_corpus(name)

    def test_no_public_copy(self) -> None:
        with pytest.raises(OnepassError, match="no public copy; give tone:PATH or tone:hub:"):
            load_corpus("tone")

    def failing(self, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> str:
        datasets = pytest.importorskip("datasets")

        def load_dataset(*_args: Any, **_options: Any) -> Any:
            raise error

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        with pytest.raises(OnepassError) as told:
            load_corpus("dialogsum").examples(SUMMARIZE, "train")
        return str(told.value)

    def test_missing_or_gated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        exceptions = pytest.importorskip("datasets.exceptions")
        error = exceptions.DatasetNotFoundError("Dataset 'x' is a gated dataset on the Hub.")
        told = self.failing(error, monkeypatch)
        for words in ("knkarthick/dialogsum", "gated dataset", "hf auth login", "HF_TOKEN"):
            assert words in told

    def test_gated_when_its_files_are_fetched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        errors = pytest.importorskip("huggingface_hub.errors")
        answer = SimpleNamespace(headers={}, request=None)
        error = errors.GatedRepoError("Access is restricted", response=answer)
        told = self.failing(error, monkeypatch)
        assert "hf auth login" in told

    def test_offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        told = self.failing(ConnectionError("Couldn't reach the Hub"), monkeypatch)
        download = "hf download knkarthick/dialogsum --repo-type dataset --local-dir FOLDER"
        for words in ("cannot download", "Couldn't reach the Hub", download, "upstream files"):
            assert words in told

    def test_truly_offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(OnepassError, match="cannot download the data set no-one/has-this"):
            load_corpus("dialogsum:hub:no-one/has-this").examples(SUMMARIZE, "train")

    def test_a_script_is_never_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        error = RuntimeError("Dataset scripts are no longer supported, but found dialogsum.py")
        assert "never run" in self.failing(error, monkeypatch)

    def test_without_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "datasets", None)
        with pytest.raises(OnepassError, match=r"pip install 'onepass\[data\]'"):
            load_corpus("dialogsum").examples(SUMMARIZE, "train")


class TestRefused:
    def told(self, name: str, task: Any = SUMMARIZE, split: str = "train") -> str:
        with pytest.raises(OnepassError) as error:
            load_corpus(name).examples(task, split)
        return str(error.value)

    @pytest.mark.parametrize(
        ("kind", "task", "expected"),
        [
            ("dialogsum", SUMMARIZE, '"dialogue" and "summary"'),
            ("persona-chat", REPLY, '"Best Generated Conversation"'),
            ("ted", SPANISH, 'a column per language ("en", "es", ...)'),
            ("tone", CASUAL, '"text" and any of "professional", "casual"'),
        ],
    )
    @pytest.mark.parametrize("layout", [plain_csv, data_parquet])
    def test_another_layout(
        self, kind: str, task: Any, expected: str, layout: HubLayout, tmp_path: Path
    ) -> None:
        layout(tmp_path, {"train": [{"document": "x", "title": "y"}]})
        told = self.told(f"{kind}:{tmp_path}", task)
        assert "found document, title; expected " in told
        assert expected in told
        assert "train.csv, line 2" in told or "split train, row 1" in told

    def test_a_tone_row_without_any_tone(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "train.jsonl", [{"text": "a", "casual": "b"}, {"text": "c"}])
        told = self.told(f"tone:{tmp_path}", CASUAL)
        assert 'train.jsonl, line 2: no "casual"; found text; expected' in told

    @pytest.mark.parametrize("pairs", [None, "x", {"language": ["en"], "translation": []}])
    def test_translations_that_are_none(self, pairs: Any, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "train.jsonl", [{"talk_name": "t", "translations": pairs}])
        assert '"translations" must have as many' in self.told(f"ted:{tmp_path}", SPANISH)

    @pytest.mark.parametrize("layout", [plain_csv, data_parquet, data_jsonl])
    def test_an_empty_summary_is_named(self, layout: HubLayout, tmp_path: Path) -> None:
        rows = [{"id": str(n), "dialogue": f"A: {n}", "summary": "x" * (n != 1)} for n in range(3)]
        layout(tmp_path, {"train": rows})
        told = self.told(f"dialogsum:{tmp_path}")
        assert '"summary" must be a text that is not empty' in told
        assert {"plain_csv": "csv, line 3", "data_parquet": "row 2", "data_jsonl": "line 2"}[
            layout.__name__
        ] in told

    @pytest.mark.parametrize("layout", [plain_csv, data_parquet])
    def test_an_id_that_stands_twice(self, layout: HubLayout, tmp_path: Path) -> None:
        rows = [{"id": f"train_{n % 2}", "dialogue": f"A: {n}", "summary": "x"} for n in range(3)]
        layout(tmp_path, {"train": rows})
        told = self.told(f"dialogsum:{tmp_path}")
        assert "the id 'train_0' is also that of" in told
        assert ("line 2" in told and "line 4" in told) or ("row 1" in told and "row 3" in told)

    def test_a_parquet_file_that_is_cut_short(self, tmp_path: Path) -> None:
        data_parquet(tmp_path, {"train": dialogsum_rows()[1]["train"]})
        (file,) = tmp_path.rglob("*.parquet")
        file.write_bytes(file.read_bytes()[:-100])
        for path in (tmp_path, file):
            told = self.told(f"dialogsum:{path}")
            assert "corrupt, cut short" in told
            assert str(path) in told

    def test_a_folder_with_nothing_in_it(self, tmp_path: Path) -> None:
        assert f"the folder {tmp_path} is empty" in self.told(f"dialogsum:{tmp_path}")
        (tmp_path / "README.md").write_text("# Nothing")
        assert "holds no data files" in self.told(f"dialogsum:{tmp_path}")

    def test_a_split_that_is_not_there(self, tmp_path: Path) -> None:
        data_parquet(tmp_path, {"train": dialogsum_rows()[1]["train"]})
        told = self.told(f"dialogsum:{tmp_path}", split="validation")
        assert "has no split 'validation'; found train" in told

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "me").symlink_to(tmp_path / "me")
        assert "there is no file or folder" in self.told(f"dialogsum:{tmp_path / 'me'}")
        folder = tmp_path / "data"
        folder.mkdir()
        (folder / "train.jsonl").symlink_to(folder / "train.jsonl")
        assert "cannot read" in self.told(f"dialogsum:{folder}")

    def test_a_folder_that_links_to_itself(self, tmp_path: Path) -> None:
        data_parquet(tmp_path, {"train": dialogsum_rows()[1]["train"]})
        (tmp_path / "data" / "again").symlink_to(tmp_path)
        assert len(load_corpus(f"dialogsum:{tmp_path}").examples(SUMMARIZE, "train")) == 4

    def test_a_loading_script_is_never_run(self, tmp_path: Path) -> None:
        folder = tmp_path / "corpus"
        folder.mkdir()
        trap = tmp_path / "trap"
        (folder / "corpus.py").write_text(f"open({str(trap)!r}, 'w')")
        self.told(f"dialogsum:{folder}")
        assert not trap.exists()

    def test_a_table_with_a_cell_too_many(self, tmp_path: Path) -> None:
        (tmp_path / "train.tsv").write_text("talk_name\ten\tes\na\tb\tc\td\n")
        assert "line 2: more columns" in self.told(f"ted:{tmp_path}", SPANISH)

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"", "holds no"), (b"en\tes\n", "holds no"), (b"en\tes\n\xff\tx\n", "not UTF-8")],
    )
    def test_a_broken_table(self, content: bytes, message: str, tmp_path: Path) -> None:
        (tmp_path / "train.tsv").write_bytes(content)
        assert message in self.told(f"ted:{tmp_path}", SPANISH)


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
        assert all(parse_task(task).parts for task in facts.tasks)
        told: Iterable[str] = (word for word, _ in facts.told())
        assert {"title", "tasks", "licence", "citation"} <= set(told)
