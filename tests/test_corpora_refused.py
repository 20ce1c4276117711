"""The hub at its boundary, and the corpora's bad input: what is said of each."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from corpora_kit import (
    CASUAL,
    REPLY,
    SPANISH,
    SUMMARIZE,
    HubLayout,
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

    @pytest.mark.parametrize("name", ["dialogsum:" + "x" * 5000, "dialogsum:a\0b"])
    def test_a_path_that_cannot_be(self, name: str) -> None:
        assert "there is no file or folder" in self.told(name)
        with pytest.raises(OnepassError, match="unknown corpus"):
            load_corpus(name.removeprefix("dialogsum:"))

    def test_a_path_that_is_a_pattern(self, tmp_path: Path) -> None:
        folder = tmp_path / "data [1]"
        data_parquet(folder, {"train": dialogsum_rows()[1]["train"]})
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
