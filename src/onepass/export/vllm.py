"""Compositions for vLLM: an adapter for each pass, and the command that serves them all.

OUT/<name>/       an adapter in PEFT's format, for a composition of one pass
OUT/<name>-1/     and so on, for one of several
OUT/serve.sh      the command
OUT/README.md     the same for people: names, prompts, how to ask
OUT/onepass.json  the same for programs
OUT/plain.jinja   the chat template, for a base that has none
"""

import json
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from onepass.adapters.composition import Composition, Pass
from onepass.adapters.storage import FolderFiles, check_replaceable
from onepass.core.errors import OnepassError
from onepass.core.files import atomic_folder, read_json, write_json, write_text
from onepass.export.peft import export_peft
from onepass.export.single import is_activated, is_plain, single_lora
from onepass.model.chat import PLAIN_TEMPLATE

CARD = "onepass.json"
SERVE, README, TEMPLATE = "serve.sh", "README.md", "plain.jinja"

WITHOUT_ADAPTERS = {"falcon", "gpt_neox", "stablelm"}
"""Types of models that vLLM (0.22) runs, but takes no adapters for: see the column "LoRA" of
https://docs.vllm.ai/en/latest/models/supported_models.html."""

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank (MaxLoRARanks in its vllm/config/lora.py, version 0.22)."""

ACTIVATED = "--enable-activated-lora"
"""The option of https://github.com/vllm-project/vllm/pull/19710, which was closed unmerged: vLLM's
own releases (0.22) skip the field `alora_invocation_tokens` of an adapter. What that branch runs
are the projections q, k and v."""

_AT_ONCE = 8  # adapters in one batch; each takes memory for the greatest rank
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def export_vllm(
    compositions: Mapping[str, Composition],
    folder: Path | str,
    model: str,
    dtype: torch.dtype | None = torch.float16,
    tokenizer: Any = None,
) -> str:
    """Write the adapters of these compositions, by name, and give the command that serves them.

    model: the base, as vLLM is to find it: a hub name or a folder. tokenizer: as for `export_peft`.
    Raises:
        OnepassError: a name cannot be a served model's, the bases differ, a pass is no LoRA or
            of a rank that vLLM does not take, or the folder cannot be written.
    """
    folder = Path(folder)
    check_replaceable(folder, vllm_files(folder))
    adapters = _adapters(compositions)
    ranks = [
        max(lora.rank for lora in single_lora(adapter).values()) for adapter in adapters.values()
    ]
    plain = any(map(is_plain, adapters.values()))
    activated = any(map(is_activated, adapters.values()))
    command = serve_command(model, list(adapters), max(ranks), plain, activated)
    with atomic_folder(folder) as temporary:
        for name, adapter in adapters.items():
            export_peft(adapter, temporary / name, dtype, tokenizer)
        write_json(temporary / CARD, _card(model, compositions, adapters))
        write_text(temporary / README, _readme(command, compositions, adapters))
        if plain:
            write_text(temporary / TEMPLATE, PLAIN_TEMPLATE)
        write_text(temporary / SERVE, _script(command))
        (temporary / SERVE).chmod(0o755)
    return command


def serve_command(
    model: str, adapters: list[str], rank: int, plain: bool = False, activated: bool = False
) -> str:
    """What serves adapters of at most this rank, to be run in the folder that holds them.

    plain: whether the base has no chat template, without which vLLM takes no messages. activated:
    whether some act from an invocation on. A vLLM that does not know the option refuses it; without
    it, it would let them act on the whole prompt.
    """
    at_once = min(len(adapters), _AT_ONCE)
    fitting = [allowed for allowed in RANKS if allowed >= rank]
    if not fitting:
        raise OnepassError(
            f"a pass has rank {rank}, but vLLM takes {RANKS[-1]} at most; "
            "export the composition as merged, and serve that"
        )
    return " \\\n    ".join(
        [
            f"vllm serve {shlex.quote(model)}",
            f"--enable-lora --max-lora-rank {fitting[0]} --max-loras {at_once}",
            f"--lora-modules {' '.join(f'{name}=./{name}' for name in adapters)}",
            *([f"--chat-template ./{TEMPLATE}"] if plain else []),
            *([f"{ACTIVATED} --enable-prefix-caching"] if activated else []),
            "--host 127.0.0.1",
        ]
    )


def vllm_files(folder: Path) -> FolderFiles:
    """What such a folder consists of; the names of its adapters are in its card."""
    written: list[str] = []
    if (folder / CARD).is_file():
        with suppress(KeyError, TypeError):  # a card of something else
            written = [name for e in read_json(folder / CARD)["served"] for name in e["models"]]
    return FolderFiles(CARD, (SERVE, README, TEMPLATE, *written))


def pass_names(name: str, composition: Composition) -> list[str]:
    """What the passes of a composition are served as."""
    count = len(composition.passes)
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]


def _adapters(compositions: Mapping[str, Composition]) -> dict[str, Composition]:
    """Each pass as a composition of its own, by the name it is served as."""
    bases = sorted({composition.base.name for composition in compositions.values()})
    if len(bases) > 1:
        raise OnepassError(
            f"the compositions are for different bases: {', '.join(bases)}; vLLM serves one"
        )
    found: dict[str, Composition] = {}
    for title, composition in compositions.items():
        if not _NAME.fullmatch(title):
            raise OnepassError(
                f"{title!r} cannot be the name of a served model; "
                "rename the folder, with letters, digits, dots and dashes"
            )
        for name, pass_ in zip(pass_names(title, composition), composition.passes, strict=True):
            if name in found or name in (CARD, SERVE, README, TEMPLATE):
                raise OnepassError(f"two files would be called {name!r}; rename a folder")
            found[name] = replace(composition, task=pass_.task, passes=(_weights_of(pass_),))
    return found


def _weights_of(pass_: Pass) -> Pass:
    """The pass without its solved examples, which its prompts show and no weights hold."""
    return replace(pass_, shots=())


def _card(
    model: str, compositions: Mapping[str, Composition], adapters: Mapping[str, Composition]
) -> dict[str, object]:
    return {
        "format": "onepass vllm 1",
        "base": model,
        "served": [
            {
                "task": composition.task.to_json(),
                "method": composition.method,
                "models": pass_names(name, composition),
                "prompts": [pass_.task.message("{text}") for pass_ in composition.passes],
                "systems": [pass_.task.system for pass_ in composition.passes],
            }
            for name, composition in compositions.items()
        ],
    }


def _script(command: str) -> str:
    return (
        "#!/bin/sh\n"
        "# Serves the adapters beside this file, to this machine only. Takes further options of\n"
        "# vLLM: ./serve.sh --port 8001\n"
        'cd "$(dirname "$0")" || exit 1\n'
        f'exec {command} \\\n    "$@"\n'
    )


def _readme(
    command: str, compositions: Mapping[str, Composition], adapters: Mapping[str, Composition]
) -> str:
    lines = ["# Adapters for vLLM", "", "In this folder:", "", *_indented(command), ""]
    lines += ["Or run `./serve.sh`. Then ask, on the same machine:", ""]
    for name, composition in compositions.items():
        models = " ".join(pass_names(name, composition))
        lines.append(
            f"    onepass generate {name} --endpoint http://127.0.0.1:8000/v1 "
            f"--served {models} --input FILE"
        )
    lines += [
        "",
        "or any client of OpenAI's API, with the system message (if there is one) and the",
    ]
    lines += ["prompt below, the text in the place of {text}.", ""]
    lines += ["| model | task | system message | prompt |", "| --- | --- | --- | --- |"]
    for name, composition in adapters.items():
        task = composition.task
        system, prompt = (
            f"`{json.dumps(text, ensure_ascii=False)}`" if text else ""
            for text in (task.system, task.message("{text}"))
        )
        lines.append(f"| {name} | {task} | {system} | {prompt} |")
    lines += ["", "Of a composition with several models, each is given what the one before said."]
    if ACTIVATED in command:
        lines += [
            "",
            f"`{ACTIVATED}` is of vLLM's pull request 19710. A vLLM without it refuses the",
            "command, and would otherwise let the adapters act on the whole prompt.",
        ]
    return "\n".join([*lines, ""])


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.splitlines()]
