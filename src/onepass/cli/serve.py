"""`onepass serve`: compositions as the models of an OpenAI-compatible server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onepass.cli import options as o
from onepass.cli.show import note, print_table

if TYPE_CHECKING:
    from onepass.serve.http.backend import Backend

LIMITS = "Limits"


def serve(
    ctx: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="SET|COMPOSITION...",
            help="What `pack` wrote, on llama.cpp; or folders of compositions and adapters of one "
            "base, on PyTorch.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="The address to listen on, by default for this machine alone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Holds the key that clients must bring. By default that of the variable "
            "ONEPASS_SERVE_KEY, or else a new one, which is printed.",
        ),
    ] = None,
    no_key: Annotated[
        bool, typer.Option("--no-key", help="Answer any program on this machine.")
    ] = False,
    max_tokens: Annotated[
        int,
        typer.Option(min=1, help="The highest that a request may ask for.", rich_help_panel=LIMITS),
    ] = 1024,
    max_body: Annotated[
        str, typer.Option(metavar="BYTES", help="Of a request: 1M.", rich_help_panel=LIMITS)
    ] = "1M",
    queue: Annotated[
        int,
        typer.Option(
            min=0, help="Requests that may wait; others are refused (429).", rich_help_panel=LIMITS
        ),
    ] = 64,
    time_limit: Annotated[
        float, typer.Option(min=0.1, help="Seconds for an answer.", rich_help_panel=LIMITS)
    ] = 300.0,
    grace: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Seconds for which answers go on after Ctrl-C or SIGTERM.",
            rich_help_panel=LIMITS,
        ),
    ] = 10.0,
    base: Annotated[
        str | None,
        typer.Option(
            "--model",
            "--base",
            "-m",
            help="The base, if it is not where the compositions or the set say.",
            rich_help_panel=o.MACHINE,
        ),
    ] = None,
    parallel: Annotated[
        int,
        typer.Option(
            min=1,
            max=255,
            help="Answers of one model side by side, of a set; each costs a context of memory.",
            rich_help_panel=o.MACHINE,
        ),
    ] = 4,
    context: Annotated[
        int | None,
        typer.Option(
            help="Limit on the tokens of prompt and answer, of a set; by default the base's, at "
            "most 4096.",
            rich_help_panel=o.MACHINE,
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of llama.cpp.", rich_help_panel=o.MACHINE)
    ] = None,
    fused: Annotated[
        bool,
        typer.Option(
            "--fused/--parts",
            help="Put each composition of a set together as one adapter, which is faster and takes "
            "more memory, or not.",
            rich_help_panel=o.MACHINE,
        ),
    ] = True,
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    quantization: o.Quantization = "none",
) -> None:
    """Serve compositions to programs that speak OpenAI's API.

    Every composition, single adapter and the base are models by name, chosen per request. A
    composition does its task to the last user message; `base` takes messages as they are.

    \b
    Examples:
      onepass serve device
      onepass serve composed other --port 8080
      onepass serve device --key-file key.txt --host 0.0.0.0
      curl http://127.0.0.1:8000/v1/models -H "Authorization: Bearer $KEY"
    """
    from onepass.api.serving import is_set
    from onepass.api.serving import serve as run
    from onepass.core.optional import optional

    optional("starlette", "serve", "onepass serve")
    from onepass.serve.http.app import Limits

    if is_set(what):
        o.refuse(ctx, ["device", "dtype", "quantization"], "is of PyTorch; a set runs on llama.cpp")
        options: dict[str, Any] = {
            "parallel": parallel, "context": context, "threads": threads, "fused": fused,
        }  # fmt: skip
    else:
        o.refuse(ctx, ["parallel", "context", "threads", "fused"], "is of llama.cpp; pack a set")
        options = {"device": device, "dtype": dtype, "quantization": quantization}
    limits = Limits(o.parse_count(max_body), max_tokens, queue, time_limit)
    run(
        what, host=host, port=port, key_file=key_file, no_key=no_key, limits=limits, grace=grace,
        ready=announced, base=base, **options,
    )  # fmt: skip
    note("the server has ended")


def announced(url: str, key: str | None, backend: "Backend") -> None:
    """Print what there is, and where."""
    rows = [(model.name, model.about) for model in backend.models.values()]
    print_table(("model", "what it does"), rows, err=True)
    typer.echo(f"serving on {url}")
    if key is not None:
        typer.echo(f"key {key}")
