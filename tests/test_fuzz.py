"""Ten thousand broken weight files: each is refused in words or read, and none takes memory."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapter_kit import random_adapter
from onepass.adapters.adapter import WEIGHTS, load_adapter, save_adapter
from onepass.core.errors import OnepassError
from onepass.core.memory import forget_peak_memory, peak_memory

FILES, AT_ONCE = 10_000, 2_500
ODD: list[Any] = [
    *(-1, 0, 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**64, 10**30, 0.5, None),
    *("8", "", "F64", "I8", "F8_E4M3", "F128", [], {}, {"__metadata__": 3}),
]
NAMES = ["", "../../etc/passwd", "lora_A.weight", "\0", "a" * 5000]


def swap_bytes(content: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(min(len(content), 2000))] = rng.randrange(256)
    return content


def cut(content: bytearray, rng: random.Random) -> bytearray:
    return content[: rng.randrange(len(content))]


def give_another_length(content: bytearray, rng: random.Random) -> bytearray:
    length = rng.choice([0, 1, len(content), 2**31, 2**40, 2**63 - 1, 2**64 - 1])
    return bytearray(length.to_bytes(8, "little")) + content[8:]


def append(content: bytearray, rng: random.Random) -> bytearray:
    return content + rng.randbytes(rng.randint(1, 100))


def rewrite_the_header(content: bytearray, rng: random.Random) -> bytearray:
    """Another header with its true length put before it."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = rng.choice([name for name in header if name != "__metadata__"])
    odd = rng.choice([*ODD, rng.choices(ODD, k=rng.randint(0, 5))])
    match rng.randrange(5):
        case 0:
            del header[name]
        case 1:
            header[rng.choice([*NAMES, f"{name}.default"])] = header.pop(name)
        case 2:
            header[name][rng.choice(["dtype", "shape", "data_offsets"])] = odd
        case 3:
            header[name]["data_offsets"][rng.randrange(2)] = odd
        case _:
            header = odd
    text = json.dumps(header).encode()
    return bytearray(len(text).to_bytes(8, "little") + text + content[8 + size :])


MUTATIONS: list[Callable[[bytearray, random.Random], bytearray]] = [
    swap_bytes, cut, give_another_length, append, *[rewrite_the_header] * 6,
]  # fmt: skip


@pytest.mark.parametrize("part", range(FILES // AT_ONCE))
def test_no_weight_file_does_harm(part: int, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    save_adapter(random_adapter(0), folder)
    path, count = folder / WEIGHTS, random_adapter(0).parameter_count
    original, refused = path.read_bytes(), list[str]()
    rng = random.Random(part)
    forget_peak_memory()
    before = peak_memory() or 0
    for number in range(AT_ONCE):
        path.write_bytes(MUTATIONS[number % len(MUTATIONS)](bytearray(original), rng))
        try:
            found = load_adapter(folder)
        except OnepassError as error:
            refused.append(str(error))
        else:
            # What is accepted is an adapter, if not the one that was written.
            size = sum(lora.parameter_count for lora in found.modules.values())
            assert 0 < size <= count
    grown = ((peak_memory() or 0) - before) / 2**20
    assert len(refused) > AT_ONCE / 2
    assert all(str(path) in each for each in refused)
    assert grown < 200, f"reading small broken files took {grown:.0f} MiB"
