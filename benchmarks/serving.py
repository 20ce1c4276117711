"""`onepass serve` against llama.cpp's own server, and the memory of many compositions on one base.

    python benchmarks/serving.py                   the embedded base
    python benchmarks/serving.py --base FILE.gguf  a file of your own, as it is
    python benchmarks/serving.py --quick           short, to see that it works
    python benchmarks/serving.py --json FILE

Both servers hold the same set with the same settings, and are asked in turn for the same answers of
one composition as one adapter, over HTTP, by 1, 4 and 16 clients, each of which waits for an answer
before it asks again. Conversations are random and none is asked about twice, so that nothing is
cached. Adapters have rank 32 and calibrations rank 4, with random numbers. Latency is the median
over requests, of all rounds; tokens per second are those written, over the time of a round.
"""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from figures import write_figures
from one_reading_device import compositions, conversation

from onepass.export import export_gguf
from onepass.model.load import Base, load_base
from onepass.serve import Engine
from onepass.serve.plain import fused_name

CLIENTS, QUICK_CLIENTS = (1, 4, 16), (1, 4)
COUNTS, QUICK_COUNTS = (1, 4, 14), (1, 3)  # compositions whose memory is measured
PARALLEL = 4
KEY = "the-key-of-the-benchmark"
OURS, THEIRS = "onepass serve", "llama.cpp"
Row = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """Where to send a request, and what to send beside the text."""

    name: str
    netloc: str
    key: str
    more: dict[str, Any]
    instruction: str = ""
    """What stands before the text, where the server does not put it there itself."""

    def ask(self, text: str, written: int) -> Row:
        """One streamed answer: its text, its tokens, and when they came."""
        # On a connection of its own: llama.cpp closes one after a stream.
        with closing(http.client.HTTPConnection(self.netloc, timeout=600)) as connection:
            return self._answer(connection, text, written)

    def _answer(self, connection: http.client.HTTPConnection, text: str, written: int) -> Row:
        body = {
            "messages": [{"role": "user", "content": self.instruction + text}], "stream": True,
            "max_tokens": written, "stream_options": {"include_usage": True}, **self.more,
        }  # fmt: skip
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        began = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        said, first, usage = "", 0.0, {}
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            piece = (event["choices"] or [{}])[0].get("delta", {}).get("content")
            if piece and not first:
                first = time.perf_counter() - began
            said += piece or ""
        if answer.status != 200 or "completion_tokens" not in usage:
            raise SystemExit(f"{self.name} answers {answer.status}, without the usage")
        whole = time.perf_counter() - began
        return {
            "text": said, "tokens": usage["completion_tokens"], "first": first, "whole": whole,
        }  # fmt: skip


def round_of(server: Server, texts: Sequence[str], clients: int, written: int) -> list[Row]:
    """The answers to texts, asked for by so many clients; the first has the time of all."""

    def client(own: Sequence[str]) -> list[Row]:
        return [server.ask(text, written) for text in own]

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        done = list(pool.map(client, [texts[number::clients] for number in range(clients)]))
    seconds = time.perf_counter() - began
    rows = [row for each in done for row in each]
    return [{**row, "round": seconds} for row in rows]


def compared(
    servers: Sequence[Server], engine: Engine, clients: int, rounds: int, written: int, length: int
) -> Iterator[Row]:
    """A row for each server: rounds of both in turn, on the same texts."""
    each = max(4, clients)
    done: dict[str, list[list[Row]]] = {server.name: [] for server in servers}
    for number in range(rounds):
        texts = [
            conversation(engine, length, 10_000 * clients + 100 * number + seed)
            for seed in range(each)
        ]
        # Who is asked first changes: what else the machine does may change within a round.
        for server in servers if number % 2 else reversed(servers):
            done[server.name].append(round_of(server, texts, clients, written))
    said = {name: [row["text"] for part in parts for row in part] for name, parts in done.items()}
    same = sum(a == b for a, b in zip(*said.values(), strict=True)) / (rounds * each)
    for name, parts in done.items():
        rows = [row for part in parts for row in part]
        speeds = [sum(row["tokens"] for row in part) / part[0]["round"] for part in parts]
        yield {
            "server": name, "clients": clients, "requests": len(rows),
            "tokens_per_second": statistics.median(speeds),
            "first": statistics.median(row["first"] for row in rows),
            "whole": statistics.median(row["whole"] for row in rows),
            "same_text": same,
        }  # fmt: skip


@contextmanager
def ours(
    folder: Path, name: str, base: Path | None, threads: int, context: int
) -> Iterator[Server]:
    words = [
        sys.executable, "-m", "onepass", "serve", str(folder), "--port", "0",
        "--threads", str(threads), "--parallel", str(PARALLEL), "--context", str(context),
    ]  # fmt: skip
    words += ["--base", str(base)] if base else []
    environment = {**os.environ, "ONEPASS_SERVE_KEY": KEY}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, text=True, env=environment, **pipes) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        try:
            yield Server(OURS, urlsplit(url).netloc, KEY, {"model": name})
        finally:
            process.terminate()


def theirs(engine: Engine, name: str) -> Server:
    scales = [float(adapter == fused_name(name)) for adapter in engine.adapters]
    more = {
        "temperature": 0, "cache_prompt": True,
        "lora": [{"id": number, "scale": scale} for number, scale in enumerate(scales)],
    }  # fmt: skip
    process = engine._process
    task = engine.manifest.composition(name).task
    return Server(THEIRS, urlsplit(process.url).netloc, process.key, more, task.message(""))


def memory(folder: Path, names: Sequence[str], fused: bool, **options: Any) -> int | None:
    """The most bytes of an engine that has answered with each composition once."""
    with Engine(folder, fused=names if fused else [], slots=PARALLEL, **options) as engine:
        for name in names:
            engine.run(name, "Ana: Tea at five?\nBen: Yes!", max_new_tokens=4)
        return engine.peak_memory()


def packed(base: Base, file: Path | None, folder: Path, count: int) -> tuple[Path, list[str]]:
    """A set of the first so many compositions."""
    made = dict(list(compositions(base, activated=False).items())[:count])
    named = {name.replace("+", "-").replace(":", "-"): each for name, each in made.items()}
    where = folder / str(count)
    export_gguf(
        named, base, where, "q4_0", own=file, linked=file is not None, fused=False, compactly=True
    )
    return where, list(named)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few requests and compositions")
    parser.add_argument("--threads", type=int, default=1, help="of each llama.cpp")
    parser.add_argument("--base", type=Path, help="a GGUF file; by default the embedded base")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base(options.base or "tiny", "cpu", "float32")
    name = options.base.name if options.base else "the embedded base"
    rounds, written, length = (1, 24, 100) if options.quick else (5, 64, 250)
    context = min(base.context, 1024)
    served: list[Row] = []
    kept: list[Row] = []
    print(f"{name}, {options.threads} threads, {PARALLEL} answers side by side")
    with tempfile.TemporaryDirectory() as temporary:
        counts = QUICK_COUNTS if options.quick else COUNTS
        sets = {n: packed(base, options.base, Path(temporary), n) for n in counts}
        folder, (first, *_) = sets[counts[0]]
        engine = Engine(
            folder, slots=PARALLEL, fused=[first], threads=options.threads, context=context,
            base=options.base,
        )  # fmt: skip
        print(f"{'server':<14} clients  tokens/s  first token, s  answer, s  same text")
        with engine, ours(folder, first, options.base, options.threads, context) as our:
            servers = (our, theirs(engine, first))
            for server in servers:  # the first request also reads the files
                round_of(server, ["Ana: Tea at five?"], 1, 4)
            for clients in QUICK_CLIENTS if options.quick else CLIENTS:
                for row in compared(servers, engine, clients, rounds, written, length):
                    served.append(row)
                    print(
                        f"{row['server']:<14} {row['clients']:>7} {row['tokens_per_second']:>9.1f} "
                        f"{row['first']:>15.3f} {row['whole']:>10.3f} {row['same_text']:>10.0%}",
                        flush=True,
                    )
        print("compositions  form    MiB")
        for count, (folder, names) in sets.items():
            for fused in (False, True):
                peak = memory(
                    folder, names, fused, threads=options.threads, context=context,
                    base=options.base,
                )  # fmt: skip
                form = "fused" if fused else "parts"
                kept.append({"compositions": count, "form": form, "bytes": peak})
                print(f"{count:>12}  {form}  {(peak or 0) / 2**20:>6.0f}", flush=True)
    if options.json:
        setting = {
            "base": name, "threads": options.threads, "parallel": PARALLEL, "context": context,
            "conversation_tokens": length, "longest_answer": written, "quick": options.quick,
        }  # fmt: skip
        packages = ("xllamacpp", "starlette", "uvicorn")
        write_figures(options.json, setting, packages, served=served, memory=kept)


if __name__ == "__main__":
    main()
