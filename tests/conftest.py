"""Fixtures: a micro Llama with random weights, its byte-level tokenizer, and random adapters.

Everything is made here from seeds, in well under a second; nothing is downloaded.
"""

import copy
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import onepass.smalltown.verified  # noqa: F401
from architectures import FAMILIES, build
from bpe import learn_bpe
from device_kit import save_set
from onepass.adapters.adapter import Adapter, Lora
from onepass.model.load import Base, load_base
from onepass.tasks.example import Example

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = "Ana: Shall we meet at noon? Ben: Yes, at the harbour. Summarize the conversation."
MakeAdapter = Callable[..., Adapter]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Answer Ctrl-C even if the tests run in the background, where shells have it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder in Hugging Face layout: 2 layers, hidden 32, context 192, 300 words."""
    folder = tmp_path_factory.mktemp("bases") / "micro"
    special = ["<|pad|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|end|>"]
    tokenizer = learn_bpe([TEXT], special)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|eos|>",
        additional_special_tokens=special[2:],
        chat_template=CHAT_TEMPLATE,
    )
    wrapped.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=192,
        initializer_range=0.15,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=wrapped.eos_token_id,
        pad_token_id=wrapped.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def _loaded_base(base_folder: Path) -> Base:
    return load_base(base_folder, device="cpu")


@pytest.fixture
def base(_loaded_base: Base) -> Base:
    """A copy of the micro base that a test may do anything to."""
    loaded = _loaded_base
    return Base(copy.deepcopy(loaded.model), loaded.tokenizer, loaded.name, loaded.device)


@pytest.fixture(scope="session")
def family_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny random model of each family."""
    folder = tmp_path_factory.mktemp("families")
    return {name: build(name, folder / name) for name in FAMILIES}


@pytest.fixture(scope="session")
def families(family_folders: dict[str, Path]) -> dict[str, Base]:
    """The same models loaded; not to be changed."""
    return {name: load_base(folder, "cpu") for name, folder in family_folders.items()}


@pytest.fixture(params=list(FAMILIES))
def family(request: pytest.FixtureRequest, families: dict[str, Base]) -> Base:
    return families[request.param]


@pytest.fixture(scope="session")
def qwen(families: dict[str, Base]) -> Base:
    return families["qwen2.5"]


@pytest.fixture(scope="session")
def whole(qwen: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound device set of two compositions; not to be changed."""
    return save_set(qwen, tmp_path_factory.mktemp("sets") / "whole")


@pytest.fixture
def device(whole: Path, tmp_path: Path) -> Path:
    """A copy of the set that a test may spoil."""
    return Path(shutil.copytree(whole, tmp_path / "device"))


@pytest.fixture
def make_adapter(base: Base) -> MakeAdapter:
    """`make_adapter(name, rank, seed, size)`: a random adapter on all layers of the micro base."""

    def make(name: str = "summarize", rank: int = 4, seed: int = 0, size: float = 0.1) -> Adapter:
        generator = torch.Generator().manual_seed(seed)
        modules = {
            path: Lora(
                down=torch.randn(rank, in_, generator=generator) * size,
                up=torch.randn(out, rank, generator=generator) * size,
            )
            for path, (out, in_) in base.shape.modules.items()
        }
        return Adapter(name, modules, base.name, {})

    return make


@pytest.fixture
def examples() -> list[Example]:
    """Twelve short conversations with a summary each."""
    names = ["Ana", "Ben", "Cleo", "Dan"]
    places = ["harbour", "park", "station"]
    return [
        Example(
            id=f"{name}-{place}",
            input=f"{name}: Shall we meet at the {place}?\nEve: Yes, {name}.",
            targets=(f"{name} and Eve meet at the {place}.",),
        )
        for name in names
        for place in places
    ]
