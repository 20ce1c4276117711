"""Serving a device set, or compositions, to programs that speak OpenAI's API."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onepass.core.errors import OnepassError
from onepass.core.optional import optional

if TYPE_CHECKING:
    from onepass.serve.http.app import Limits
    from onepass.serve.http.backend import Backend

Ready = Callable[[str, str | None, "Backend"], None]
"""Called with the server's address, the key if it was made just now, and what it serves."""


def serve(
    what: Sequence[Path | str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    key_file: Path | None = None,
    no_key: bool = False,
    limits: "Limits | None" = None,
    grace: float = 10.0,
    ready: Ready = lambda url, key, backend: None,
    **options: Any,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        what: a device set, or compositions and adapters of one base; their folders.
        port: 0 for any that is free.
        key_file: holds the key that clients must bring; by default that of the environment, or a
            new one.
        grace: seconds for which running answers may go on once it is told to end.
        options: those of `set_backend` or of `torch_backend`.

    Raises:
        OnepassError: the port is taken; there is no such key; or what is to be served is damaged,
            or does not go together.
    """
    optional("uvicorn", "serve", "onepass serve")
    optional("starlette", "serve", "onepass serve")
    from onepass.serve.http.app import Limits
    from onepass.serve.http.server import find_key, listen, run

    limits = limits or Limits()
    key, new = find_key(key_file, no_key, host)
    with listen(host, port) as listening:  # before anything is loaded, which takes its time
        most = limits.tokens
        make = set_backend if is_set(what) else torch_backend
        backend = make(what, most=most, **options)
        address, number = listening.getsockname()[:2]
        place = f"[{address}]" if ":" in address else address
        url = f"http://{place}:{number}/v1"
        run(
            backend, listening, key, limits, grace,
            lambda: ready(url, key if new else None, backend),
        )  # fmt: skip


def is_set(what: Sequence[Path | str]) -> bool:
    """Whether a device set is to be served.

    Raises:
        OnepassError: and something else beside it.
    """
    from onepass.export.manifest import MANIFEST

    sets = [each for each in what if Path(each, MANIFEST).is_file()]
    if sets and len(what) > 1:
        raise OnepassError(
            f"{sets[0]} is a device set, which is served alone; pack all compositions into one set"
        )
    return bool(sets)


def set_backend(
    what: Sequence[Path | str],
    *,
    most: int,
    parallel: int = 4,
    fused: bool = True,
    base: Path | str | None = None,
    context: int | None = None,
    threads: int | None = None,
) -> "Backend":
    """A device set on llama.cpp; the options are those of `Engine`.

    parallel: answers with one model that are computed side by side; each costs a context.
    """
    from onepass.serve.http.on_llama import LlamaBackend

    return LlamaBackend(what[0], parallel, most, fused, base=base, context=context, threads=threads)


def torch_backend(
    what: Sequence[Path | str],
    *,
    most: int,
    base: Path | str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantization: str = "none",
) -> "Backend":
    """Compositions and adapters, by the names of their folders, on PyTorch."""
    from onepass.api.exporting import named_by_folder
    from onepass.api.resolve import as_base, as_composition
    from onepass.serve.http.on_torch import TorchBackend, served

    machine = {"device": device, "dtype": dtype, "quantization": quantization}
    named = named_by_folder([str(each) for each in what])
    loaded = as_base(base, **machine) if base is not None else None
    compositions = {}
    for name, folder in named.items():
        compositions[name], loaded = as_composition(folder, loaded, **machine)
    return TorchBackend(as_base(loaded), served(compositions), most)
