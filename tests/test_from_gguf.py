"""GGUF files as bases."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from architectures import FAMILIES, build
from base_kit import write_gemma3
from device_kit import CHAT
from onepass.core.errors import OnepassError
from onepass.export.gguf.base import write_base
from onepass.model import from_gguf
from onepass.model.chat import prompt_ids
from onepass.model.from_gguf import check_gguf
from onepass.model.generate import generate
from onepass.model.identity import model_identity
from onepass.model.load import Base, check_loadable, load_base, load_skeleton, load_tokenizer

pytest.importorskip("gguf", reason="needs onepass[device]")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "onepass" / "gguf"


@pytest.fixture
def file(base: Base, tmp_path: Path) -> Path:
    """The micro base as a GGUF file."""
    write_base(base, tmp_path / "micro.gguf", "f32")
    return tmp_path / "micro.gguf"


def logits(base: Base) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = base.model(torch.arange(3, 103)[None]).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_file_is_the_base_it_was_made_of(family: str, tmp_path: Path) -> None:
    original = load_base(build(family, tmp_path / family), "cpu")
    write_base(original, tmp_path / "base.gguf", "f32")
    loaded = load_base(tmp_path / "base.gguf", "cpu")
    torch.testing.assert_close(logits(loaded), logits(original), rtol=1e-5, atol=1e-5)
    for text in (CHAT, "<|im_end|> 1234<|eot_id|>"):
        assert prompt_ids(loaded.tokenizer, [text]) == prompt_ids(original.tokenizer, [text])
    for fact in ("context", "end_id", "stop_ids"):
        assert getattr(loaded, fact) == getattr(original, fact), fact
    assert loaded.shape.modules == original.shape.modules
    assert loaded.name == str(tmp_path / "base.gguf")


def test_numbers_in_few_bits_are_those_that_the_file_holds(base: Base, tmp_path: Path) -> None:
    write_base(base, tmp_path / "small.gguf", "q8_0")
    loaded = load_base(tmp_path / "small.gguf", "cpu")
    rounded = load_base(base.name, "cpu", quantization="q8_0")
    torch.testing.assert_close(logits(loaded), logits(rounded), rtol=1e-5, atol=1e-5)
    assert (logits(loaded) - logits(base)).abs().max() > 1e-4


def test_a_gemma_3_keeps_its_norms_scaling_and_words(tmp_path: Path) -> None:
    model = write_gemma3(tmp_path / "gemma.gguf")
    loaded = load_base(tmp_path / "gemma.gguf", "cpu")
    with torch.no_grad():
        expected = model(torch.arange(3, 103)[None]).logits
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-5)
    words = loaded.tokenizer.convert_ids_to_tokens(prompt_ids(loaded.tokenizer, ["a banana"])[0])
    assert words == ["<bos>", "a", "▁", "b", "an", "an", "a", "\n", "\n"]
    assert loaded.stop_ids == {1, 5}
    assert loaded.tokenizer.chat_template is None


def test_a_file_is_converted_once_and_can_be_saved_again(
    file: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_base(file, "cpu")
    first.model.save_pretrained(tmp_path / "saved")
    first.tokenizer.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(load_base(tmp_path / "saved", "cpu")), logits(first))
    (kept,) = cache.iterdir()
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr(from_gguf, "_convert", None)
    assert load_base(file, "cpu").name == str(file)
    assert load_tokenizer(file).get_vocab() == first.tokenizer.get_vocab()
    assert load_skeleton(file).config.hidden_size == 32
    assert kept.stat().st_mtime_ns == before


def test_nothing_is_kept_if_the_cache_is_off(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(from_gguf.CACHE, "off")
    assert generate(load_base(file, "cpu"), ["Ana?"], 2).tokens
    assert not cache.exists()


def test_a_folder_with_one_file_is_that_file(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = file.rename(folder / "only.gguf")
    assert load_base(folder, "cpu").name == str(file)
    assert model_identity(str(file)) == model_identity(str(folder)) != str(folder)
    (folder / "other.gguf").write_bytes(file.read_bytes()[:100])
    with pytest.raises(OnepassError, match=r"2 GGUF files \(only\.gguf, other\.gguf\); name the"):
        check_loadable(folder)


@pytest.mark.parametrize("size", [0, 3, 500, 60_000])
def test_a_cut_file_is_refused(file: Path, cache: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(OnepassError, match=r"micro\.gguf: .*cut short, fetch it again"):
        load_base(file, "cpu")
    assert not cache.exists() or not list(cache.iterdir())


@pytest.mark.parametrize(
    ("architecture", "parts", "words"),
    [
        ("clip", 1, r"of architecture clip, which .* it reads .*gemma3, .*qwen2"),
        ("t5", 1, r"of architecture t5, which .* it reads .*gemma3, .*qwen2"),
        ("llama", 3, r"is one of 3 parts; join them with .*llama-gguf-split --merge"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_what_can(
    architecture: str, parts: int, words: str, tmp_path: Path
) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", architecture)
    writer.add_uint16("split.count", parts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(OnepassError, match=words):
        check_loadable(tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("kind", "factors", "words"),
    [("yarn", [], "yarn"), ("none", ["rope_factors_long.weight"], "rope_factors_long")],
)
def test_a_rotary_scaling_that_transformers_does_not_read_is_refused(
    kind: str, factors: list[str], words: str, base: Base
) -> None:
    metadata = {
        "general.architecture": "llama", "llama.rope.scaling.type": kind, "factors": factors,
    }  # fmt: skip
    with pytest.raises(OnepassError, match=rf"does not read its rotary scaling \({words}"):
        from_gguf._restore_rotary(base.model, Path("x.gguf"), metadata)


def test_the_missing_package_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(OnepassError, match=r"pip install 'onepass\[device\]'"):
        check_gguf(file)


@pytest.mark.parametrize(("factor", "original", "head"), [(8.0, 8192, 128), (32.0, 8192, 64)])
def test_llama_3s_scaling_is_recovered_from_its_factors(
    factor: float, original: int, head: int
) -> None:
    parameters = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": factor, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": original,
    }  # fmt: skip
    size = {"hidden_size": 4 * head, "num_attention_heads": 4, "head_dim": head}
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](
        LlamaConfig(**size, rope_parameters=parameters), torch.device("cpu")
    )
    plain = LlamaConfig(**size, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    steps = torch.arange(head // 2, dtype=torch.float64) / (head // 2)
    factors = 500000.0**-steps / scaled.double()
    found = from_gguf._scaling(plain, factors, Path("x.gguf"))
    assert found == {key: parameters[key] for key in parameters if key != "rope_theta"}
    with pytest.raises(OnepassError, match="neither linear nor Llama 3's"):
        from_gguf._scaling(plain, factors.flip(0), Path("x.gguf"))
