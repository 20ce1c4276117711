"""Memory and time of a calibration step on a base of 262,144 words.

    python benchmarks/loss.py                    a random base of Gemma 3 270M's shapes
    python benchmarks/loss.py --base PATH        a real one: a folder or a GGUF file
    python benchmarks/loss.py --quick            a narrow random base, under a minute
    python benchmarks/loss.py --json FILE        also write the figures

A step trains LC++ of rank 4 on a merge of two adapters of rank 16, with batches of 8 random texts
as long as DialogSum's conversations with their summaries. Ours is set against the way without its
parts: all logits at once, batches whole, and weights rounded at each product. Every figure is of a
process of its own: seconds of the processor and of the clock (medians over the steps), the peak of
its resident memory, and the peak of what of that is not a page of the base's file, which the
system can drop.
"""

import argparse
import multiprocessing
import statistics
import threading
import time
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

from figures import write_figures

WORDS = 262_144
BATCH, CALIBRATION, ADAPTER = 8, 4, 16
# Tokens of prompt and target in Gemma's words, deciles of DialogSum's validation split.
LENGTHS = [(75, 17), (90, 20), (115, 22), (135, 24), (155, 28), (175, 30), (195, 33), (225, 36),
           (260, 41), (330, 67)]  # fmt: skip


def random_base(quick: bool) -> Any:
    """A random Gemma 3 of 18 layers (quick: 2 narrow ones), with the embedded base's tokenizer."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    from onepass.model.load import Base, load_base

    width = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32, "num_hidden_layers": 2}
    if not quick:
        width = {
            "hidden_size": 640, "intermediate_size": 2048, "head_dim": 256,
            "num_hidden_layers": 18,
        }  # fmt: skip
    config = Gemma3TextConfig(
        vocab_size=WORDS, num_attention_heads=4, num_key_value_heads=1, sliding_window=512,
        max_position_embeddings=2048, **width,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config).requires_grad_(False).eval()
    tiny = load_base("tiny", "cpu")
    return Base(model, tiny.tokenizer, "random", tiny.device)


def random_rows(base: Any, count: int, tail: int | None = None) -> list[Any]:
    """Prompts with targets; with `tail`, so many tokens of a prompt come after its text."""
    import torch

    from onepass.model.tokens import Encoded

    words = base.model.get_input_embeddings().weight.shape[0]
    lengths = [LENGTHS[number % len(LENGTHS)] for number in range(count)]
    return [
        Encoded(
            torch.randint(words, (prompt + target,)).tolist(), prompt, prompt - tail if tail else 0
        )
        for prompt, target in lengths
    ]


def random_pass(base: Any, activated: bool = False) -> Any:
    """Half of each of two random adapters of rank `ADAPTER`."""
    import torch

    from onepass.adapters.adapter import Adapter, Lora
    from onepass.adapters.composition import Pass, Weighted
    from onepass.tasks.book import parse_task

    def adapter(name: str) -> Adapter:
        modules = {
            path: Lora(torch.randn(ADAPTER, in_) / in_**0.5, torch.randn(out, ADAPTER) * 0.01)
            for path, (out, in_) in base.shape.modules.items()
        }
        return Adapter(name, modules, invocation=(1,) if activated else ())

    task = parse_task("summarize+translate:es")
    parts = (Weighted(adapter("summarize"), 0.5), Weighted(adapter("translate:es"), 0.5))
    return Pass(task.activated() if activated else task, parts)


def measure(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from onepass.core.memory import forget_peak_memory, peak_memory
    from onepass.model import tokens
    from onepass.model.load import load_base
    from onepass.model.training import calibration, objective
    from onepass.model.training.options import TrainOptions
    from onepass.tasks.example import Example

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if kind == "whole":
        patched: Any = (tokens, calibration, objective)
        patched[0].CHUNK = patched[2]._KEPT = 1 << 60
        patched[1].low_weights = lambda *given: nullcontext()
        patched[1].low_dtype = lambda *given: None
    base = load_base(options.base, "cpu") if options.base else random_base(options.quick)
    rows = random_rows(base, 4 * BATCH)
    calibration.encode_examples = lambda *given: rows if given[2] else []

    pass_ = random_pass(base)
    marks: list[tuple[float, float]] = []
    losses: list[float] = []

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        marks.append((time.process_time(), time.perf_counter()))

    forget_peak_memory()
    before = peak_memory() or 0
    with Watched() as watched:
        calibration.train_calibration(
            base, [pass_], [[Example("random", "", ("",))]], rank=CALIBRATION, progress=False,
            options=TrainOptions(batch_size=BATCH, max_steps=options.steps + 1), on_step=on_step,
        )  # fmt: skip
    between = [
        (later[0] - earlier[0], later[1] - earlier[1]) for earlier, later in pairwise(marks)
    ]  # without the first step, which pays for the first use of everything
    processor, clock = (statistics.median(each) for each in zip(*between, strict=True))
    return {
        "processor_seconds": processor, "seconds": clock, "losses": losses,
        "loaded_mib": before / 2**20, "peak_mib": (peak_memory() or 0) / 2**20,
        "own_peak_mib": watched.peak / 2**20,
    }  # fmt: skip


class Watched:
    """The peak of this process's anonymous memory, looked at 50 times a second; 0 if unknown."""

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            try:
                status = Path("/proc/self/status").read_text(encoding="ascii")
            except OSError:
                return
            for line in status.splitlines():
                if line.startswith("RssAnon:"):
                    self.peak = max(self.peak, int(line.split()[1]) * 1024)

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a narrow random base")
    parser.add_argument("--base", help="a folder or a GGUF file")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    if options.quick:
        options.steps = 2
    spawn = multiprocessing.get_context("spawn")
    rows: dict[str, Any] = {}
    print(f"{'':<8}{'CPU s/step':>12}{'s/step':>9}{'loaded MiB':>12}{'peak MiB':>10}{'own MiB':>9}")
    for kind in ("whole", "ours"):
        with spawn.Pool(1) as pool:
            row = rows[kind] = pool.apply(measure, (kind, options))
        print(
            f"{kind:<8}{row['processor_seconds']:>12.2f}{row['seconds']:>9.2f}"
            f"{row['loaded_mib']:>12.0f}{row['peak_mib']:>10.0f}{row['own_peak_mib']:>9.0f}",
            flush=True,
        )
    pairs = zip(rows["ours"]["losses"], rows["whole"]["losses"], strict=True)
    difference = max(abs(one - other) / other for one, other in pairs)
    print(f"losses differ by at most {difference:.1e} of their size")
    if options.json:
        setting = {
            "threads": options.threads, "steps": options.steps, "quick": options.quick,
            "base": Path(options.base).name if options.base else "random", "batch": BATCH,
        }  # fmt: skip
        packages = ("torch", "transformers")
        write_figures(options.json, setting, packages, rows=rows, losses_differ=difference)


if __name__ == "__main__":
    main()
