"""The engine's own process: llama.cpp's server, which lives as long as its standard input is open.

Apart, because a bad file makes llama.cpp abort the process it is in. The first line of standard
input holds the settings as JSON; answers are lines that begin with `MARK`. Every further line asks
for the most memory used so far.
"""

import json
import sys
from contextlib import suppress
from typing import Any

MARK = "onepass:"


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    server = _serve(settings)
    _say({"url": server.listening_address})
    for _ in sys.stdin:
        _say({"peak": _peak_memory()})


def _serve(settings: dict[str, Any]) -> Any:
    import xllamacpp as llama

    params = llama.CommonParams()
    params.model.path = settings["model"]
    params.lora_adapters = [llama.CommonAdapterLoraInfo(path, 0.0) for path in settings["adapters"]]
    params.n_ctx = settings["context"] * settings["slots"]
    params.n_parallel = settings["slots"]
    params.kv_unified = False
    params.cache_ram_mib = 0
    params.warmup = False
    params.fit_params = False
    params.ctx_shift = False
    params.n_predict = -1
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    if settings["threads"]:
        params.cpuparams.n_threads = settings["threads"]
        params.cpuparams_batch.n_threads = settings["threads"]
    if settings["exact"]:
        params.cache_type_k = params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return llama.Server(params)


def _peak_memory() -> int | None:
    """Bytes, or None where the system does not tell."""
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        # Not getrusage: Linux counts in what the parent used before this program was started.
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    with suppress(ImportError):  # there is none on Windows
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return None


def _say(value: dict[str, Any]) -> None:
    print(MARK + json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
