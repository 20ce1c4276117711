"""How fast onepass merges, against PEFT's `add_weighted_adapter` in the same run.

    python benchmarks/merge.py                      Llama-3.2-1B's shapes, one layer, rank 32
    python benchmarks/merge.py --quick              a quarter of the width, under a minute
    python benchmarks/merge.py --layers 16 --ours   only ours, the whole model
    python benchmarks/merge.py --json FILE          also write the figures

Every figure is of a process of its own: the median of some repeats, and how far the peak of its
memory rose above what the loaded adapters take. The limit is the time to read the adapters and to
write the result once, at the memory bandwidth measured by a copy.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import write_figures

RANK = 32
# Ours, its options, and PEFT's name and options for the same merge.
PAIRS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("peft-linear", {}, "linear", {}),
    ("concat", {}, "cat", {}),
    ("linear", {"rank": RANK}, "svd", {"svd_rank": RANK}),
    ("ties", {"variant": "peft", "density": 0.2, "rank": RANK}, "ties_svd",
     {"svd_rank": RANK, "density": 0.2}),
    ("dare-ties", {"density": 0.5, "rank": RANK}, "dare_ties_svd",
     {"svd_rank": RANK, "density": 0.5}),
    ("magnitude-prune", {"density": 0.5, "rank": RANK}, "magnitude_prune_svd",
     {"svd_rank": RANK, "density": 0.5}),
    ("slerp", {}, "", {}),
    ("knots", {}, "", {}),
    ("tsv", {}, "", {}),
    ("iso-cts", {}, "", {}),
]  # fmt: skip


def shapes(layers: int, width: int) -> dict[str, tuple[int, int]]:
    """(out, in) of the projections of Llama-3.2-1B, or of one `width` times as wide (in 1/4)."""
    hidden, mlp, kv = 512 * width, 2048 * width, 128 * width
    one = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (mlp, hidden), "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }  # fmt: skip
    return {f"model.layers.{i}.{path}": s for i in range(layers) for path, s in one.items()}


def factors(count: int, layers: int, width: int) -> list[dict[str, tuple[Any, Any]]]:
    """Per adapter and module down (r, in) and up (out, r), float32, as after training."""
    import torch

    random = torch.Generator().manual_seed(0)
    return [
        {
            module: (
                torch.randn(RANK, in_, generator=random) / in_**0.5,
                torch.randn(out, RANK, generator=random) * 0.01,
            )
            for module, (out, in_) in shapes(layers, width).items()
        }
        for _ in range(count)
    ]


def ours(method: str, options: dict[str, Any], count: int, layers: int, width: int) -> Any:
    from onepass import merge
    from onepass.adapters.adapter import Adapter, Lora

    adapters = [
        Adapter(f"a{n}", {m: Lora(down, up) for m, (down, up) in modules.items()})
        for n, modules in enumerate(factors(count, layers, width))
    ]
    weights = [1 / count] * count
    return lambda: merge(adapters, method, weights, **options)


def theirs(kind: str, options: dict[str, Any], count: int, layers: int, width: int) -> Any:
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=512 * width, intermediate_size=2048 * width,
        num_hidden_layers=layers, num_attention_heads=8 * width, num_key_value_heads=2 * width,
        head_dim=64,
    )  # fmt: skip
    targets = sorted({module.rpartition(".")[2] for module in shapes(layers, width)})
    lora = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, task_type="CAUSAL_LM")
    model = peft.get_peft_model(LlamaForCausalLM(config), lora, adapter_name="a0")
    for n in range(1, count):
        model.add_adapter(f"a{n}", lora)
    names = [f"a{n}" for n in range(count)]
    with torch.no_grad():
        for name, modules in zip(names, factors(count, layers, width), strict=True):
            for module, (down, up) in modules.items():
                layer = model.base_model.model.get_submodule(module)
                layer.lora_A[name].weight.copy_(down)
                layer.lora_B[name].weight.copy_(up)

    def run() -> None:
        if "merged" in model.peft_config:
            model.delete_adapter("merged")
        model.add_weighted_adapter(
            names, [1 / count] * count, "merged", combination_type=kind, **options
        )

    return run


def measure(prepare: Callable[..., Any], threads: int, budget: float, *args: Any) -> dict[str, Any]:
    """Seconds (the median of up to nine, within a budget) and the rise of the peak, in MiB."""
    import torch

    from onepass.core.memory import forget_peak_memory, peak_memory

    torch.set_num_threads(threads)
    run = prepare(*args)
    forget_peak_memory()
    before = peak_memory() or 0
    times: list[float] = []
    while not times or (len(times) < 9 and sum(times) < budget):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    rise = ((peak_memory() or 0) - before) / 2**20
    return {"seconds": statistics.median(times), "repeats": len(times), "mib": rise}


def bandwidth(threads: int) -> float:
    """Bytes per second that a copy reads and writes."""
    import torch

    torch.set_num_threads(threads)
    source = torch.ones(2**26)
    target = torch.empty_like(source)
    times = []
    for _ in range(7):
        began = time.perf_counter()
        target.copy_(source)
        times.append(time.perf_counter() - began)
    return 2 * source.numel() * 4 / min(times)


def compare(options: argparse.Namespace) -> list[dict[str, Any]]:
    spawn = multiprocessing.get_context("spawn")
    width = 1 if options.quick else 4
    rows = []
    with spawn.Pool(1) as pool:
        speed = pool.apply(bandwidth, (options.threads,))
    print(f"{options.layers} layer(s), rank {RANK}; memory {speed / 1e9:.1f} GB/s by copying")
    print(f"{'merge':<22}{'N':>3}{'ours s':>10}{'MiB':>8}{'PEFT':>21}{'s':>9}{'MiB':>8}"
          f"{'faster':>9}{'x limit':>9}")  # fmt: skip
    for count in options.adapters:
        for method, given, kind, peft_options in PAIRS:
            if method == "slerp" and count != 2:
                continue
            sizes = (count, options.layers, width)
            row: dict[str, Any] = {"merge": method, "options": given, "adapters": count}
            with spawn.Pool(1) as pool:
                row["ours"] = pool.apply(
                    measure, (ours, options.threads, options.budget, method, given, *sizes)
                )
            if kind and not options.ours:
                with spawn.Pool(1) as pool:
                    row["peft"] = {"kind": kind} | pool.apply(
                        measure, (theirs, options.threads, options.budget, kind, peft_options,
                                  *sizes)
                    )  # fmt: skip
                row["faster"] = row["peft"]["seconds"] / row["ours"]["seconds"]
            row["limit"] = _limit(count, given.get("rank"), *sizes[1:]) / speed
            rows.append(row)
            _show(row)
    return rows


def _limit(count: int, rank: int | None, layers: int, width: int) -> float:
    """The bytes of all factors read once and of the result written once, float32."""
    sides = sum(out + in_ for out, in_ in shapes(layers, width).values())
    written = rank or RANK * count
    return 4.0 * sides * (RANK * count + written)


def _show(row: dict[str, Any]) -> None:
    name = row["merge"] + (" to rank 32" if row["merge"] == "linear" and row["options"] else "")
    mine, other = row["ours"], row.get("peft")
    text = f"{name:<22}{row['adapters']:>3}{mine['seconds']:>10.3f}{mine['mib']:>8.0f}"
    if other:
        text += f"{other['kind']:>21}{other['seconds']:>9.2f}{other['mib']:>8.0f}"
        text += f"{row['faster']:>8.1f}x"
    else:
        text += " " * 47
    print(text + f"{mine['seconds'] / row['limit']:>9.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a quarter of the width")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--adapters", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=5.0, help="seconds of repeats per figure")
    parser.add_argument("--ours", action="store_true", help="leave PEFT out")
    parser.add_argument("--json", type=Path, help="write the figures into this file")
    options = parser.parse_args()
    if options.quick:
        options.adapters, options.budget = options.adapters[:1], 1.0
    rows = compare(options)
    if options.json:
        setting = {
            "threads": options.threads, "layers": options.layers, "rank": RANK,
            "quick": options.quick,
        }  # fmt: skip
        write_figures(options.json, setting, ("torch", "peft"), rows=rows)


if __name__ == "__main__":
    main()
