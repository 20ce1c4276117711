"""A real llama.cpp server on 127.0.0.1 that serves a base, a pass summed into its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_kit import engine_or_skip
from onepass.adapters.composition import Pass
from onepass.model.attach import merged
from onepass.model.load import Base
from onepass.serve.endpoint import Endpoint
from onepass.tasks.book import parse_task


@contextmanager
def llama_server(base: Base, folder: Path, pass_: Pass | None = None) -> Iterator[Endpoint]:
    """The server, while the block lasts; in 32 bits, so that it says what PyTorch says."""
    engine_or_skip()
    from onepass.export.gguf.base import write_base
    from onepass.serve.process import EngineProcess

    path = folder / "base.gguf"
    with merged(base, pass_ or Pass(parse_task("summarize"))):
        write_base(base, path, "f32")
    settings = {
        "model": str(path), "adapters": [], "context": base.context, "slots": 2, "threads": 1,
        "exact": True,
    }  # fmt: skip
    process = EngineProcess(settings, timeout=30)
    try:
        yield Endpoint(f"{process.url}/v1", "base", process.key, concurrency=2, timeout=30)
    finally:
        process.close()
