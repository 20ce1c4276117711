"""The hub at its boundary, and the corpora's bad input: what is said of each."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors

from corpora_kit import (
    CASUAL,
    REPLY,
    SPANISH,
    SUMMARIZE,
    HubLayout,
    converted_parquet,
    data_jsonl,
    data_parquet,
    dialogsum_rows,
    plain_csv,
    write_jsonl,
)
from onepass.core.errors import OnepassError
from onepass.tasks.corpus import load_corpus


class TestHub:
    @pytest.fixture
    def asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What is asked of the hub; it answers with DialogSum's test split."""
        calls: list[Any] = []

        def download(repository: str, *, repo_type: str, revision: str, allow_patterns: Any) -> str:
            assert repo_type == "dataset"
            assert {"*.csv", "*.parquet"} < set(allow_patterns)
            calls.append((repository, revision))
            data_parquet(tmp_path, {"test": dialogsum_rows()[1]["test"]})
            return str(tmp_path)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        return calls

    @pytest.mark.parametrize(
        ("name", "repository", "revision"),
        [
            ("dialogsum", "knkarthick/dialogsum", None),
            ("dialogsum:hub:my-org/copy.1", "my-org/copy.1", None),
            ("dialogsum:hub:my-org/copy@v2", "my-org/copy", "v2"),
            ("hub:my-org/copy@v2", "my-org/copy", "v2"),
        ],
    )
    def test_a_name_is_a_data_set(
        self, name: str, repository: str, revision: str | None, asked: list[Any]
    ) -> None:
        corpus = load_corpus(name)
        assert asked == []  # nothing is loaded before it is asked for
        found = corpus.examples(SUMMARIZE, "test")
        assert asked == [(repository, revision)]
        assert [len(e.targets) for e in found] == ([1] * 12 if name[:4] == "hub:" else [3] * 4)
        with pytest.raises(OnepassError, match=f"{repository} has no split 'train'; found test"):
            corpus.examples(SUMMARIZE, "train")

    @pytest.mark.parametrize("name", ["dialogsum:hub:", "hub:copy", "ted:hub:a/b/c"])
    def test_a_name_that_none_can_have(self, name: str) -> None:
        with pytest.raises(OnepassError, match="is not OWNER/NAME or OWNER/NAME@REVISION"):
            load_corpus(name)

    def test_no_public_copy(self) -> None:
        with pytest.raises(OnepassError, match="no public copy; give tone:PATH or tone:hub:"):
            load_corpus("tone")

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            ("RepositoryNotFoundError", ("knkarthick/dialogsum", "hf auth login", "HF_TOKEN")),
            ("GatedRepoError", ("gated", "accept its conditions")),
            (
                "OfflineModeIsEnabled",
                ("cannot download", "oh no", "upstream files",
                 "hf download knkarthick/dialogsum --repo-type dataset --local-dir FOLDER"),
            ),
        ],
    )  # fmt: skip
    def test_what_cannot_be_had(
        self, error: str, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kind = getattr(errors, error)
        answer = SimpleNamespace(headers={}, request=None)
        given = {"response": answer} if issubclass(kind, errors.HfHubHTTPError) else {}

        def download(*_args: Any, **_options: Any) -> Any:
            raise kind("oh no", **given)

        monkeypatch.setattr("huggingface_hub.snapshot_download", download)
        with pytest.raises(OnepassError) as told:
            load_corpus("dialogsum").examples(SUMMARIZE, "train")
        for word in words:
            assert word in str(told.value)

    def test_truly_offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(OnepassError, match="cannot download the data set no-one/has-this"):
            load_corpus("hub:no-one/has-this").examples(SUMMARIZE, "train")

    def test_a_data_set_without_data_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "huggingface_hub.snapshot_download", lambda *_args, **_options: str(tmp_path)
        )
        with pytest.raises(OnepassError, match="never run, may be at a/b@refs/convert/parquet"):
            load_corpus("hub:a/b").examples(SUMMARIZE, "train")

    @pytest.mark.parametrize("layout", [data_parquet, converted_parquet])
    def test_without_the_library(
        self, layout: HubLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layout(tmp_path, {"train": dialogsum_rows()[1]["train"]})
        for module in ("datasets", "pyarrow.parquet"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(OnepassError, match=r"pip install 'onepass\[data\]'"):
            load_corpus(f"dialogsum:{tmp_path}").examples(SUMMARIZE, "train")


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
        assert "train.csv, line 2" in told or ".parquet, row 1" in told

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

    @pytest.mark.parametrize("name", ["dialogsum:" + "x" * 5000, "dialogsum:a\0b"])
    def test_a_path_that_cannot_be(self, name: str) -> None:
        assert "there is no file or folder" in self.told(name)
        with pytest.raises(OnepassError, match="unknown corpus"):
            load_corpus(name.removeprefix("dialogsum:"))

    def test_a_path_that_is_a_pattern(self, tmp_path: Path) -> None:
        folder = tmp_path / "data [1]"
        converted_parquet(folder, {"train": dialogsum_rows()[1]["train"]})
        assert f"{folder}: datasets takes" in self.told(f"dialogsum:{folder}")
        plain_csv(folder, {"train": dialogsum_rows()[1]["train"]})
        assert len(load_corpus(f"dialogsum:{folder}").examples(SUMMARIZE, "train")) == 4

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
