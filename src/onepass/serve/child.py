"""The engine's own process: llama.cpp's server, which lives as long as its standard input is open.

Apart, because a bad file makes llama.cpp abort the process it is in. The first line of standard
input holds the settings as JSON; the answer, where to reach the server, begins with `MARK`.
"""

import json
import os
import sys
from typing import Any

MARK = "onepass:"
SPINS = "1000"
"""How often a thread looks for the others before it sleeps: some ten microseconds."""


def main() -> None:
    settings = json.loads(sys.stdin.readline())
    server = _serve(settings)
    print(MARK + json.dumps({"url": server.listening_address}), flush=True)
    sys.stdin.read()


def _serve(settings: dict[str, Any]) -> Any:
    # Threads wait for each other hundreds of times per token. By default OpenMP has them look for
    # milliseconds (llama.cpp's own `poll` does not reach it), which on a busy machine keeps the
    # thread that is waited for from its core. It is read as the library is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

    import xllamacpp as llama

    params = llama.CommonParams()
    params.model.path = settings["model"]
    params.lora_adapters = [llama.CommonAdapterLoraInfo(path, 0.0) for path in settings["adapters"]]
    params.n_ctx = settings["context"] * settings["slots"]
    # Else layers with a sliding window keep no more than it, and a cache cannot be taken up again
    # from where the text ends.
    params.swa_full = settings.get("whole_window", False)
    params.n_parallel = settings["slots"]
    params.kv_unified = False
    params.cache_ram_mib = 0
    params.warmup = False
    params.fit_params = False
    params.ctx_shift = False
    params.n_predict = -1
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["key"]]
    params.ui = False
    params.verbosity = 1  # errors; each request would add a line to a log that is only read then
    if settings["threads"]:
        params.cpuparams.n_threads = settings["threads"]
        params.cpuparams_batch.n_threads = settings["threads"]
    if settings["exact"]:
        params.cache_type_k = params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return llama.Server(params)


if __name__ == "__main__":
    main()
