"""Tensors and manifests on disk: safetensors and checked JSON, never a pickle."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from onepass.core.errors import OnepassError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (on the CPU, in the file's dtypes) and the metadata of a safetensors file.

    Raises:
        OnepassError: the file is missing, corrupt or truncated, or a tensor is not of a float
            dtype in `FLOATS` or holds NaN or Inf.
    """
    if not path.is_file():
        pickle = path.with_suffix(".bin")
        hint = (
            f"; {pickle.name} is there, but pickle files can run code and are not read: "
            "save the weights again as safetensors"
            if pickle.is_file()
            else ""
        )
        raise OnepassError(f"{path} does not exist{hint}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise OnepassError(
            f"{path} is corrupt or cut short ({error}); copy or download it again"
        ) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise OnepassError(
                f"{path}, tensor {name}: dtype {tensor.dtype} is not supported; "
                "save the weights as float16, bfloat16 or float32"
            )
    check_finite(tensors, path)
    return tensors, metadata


def check_finite(tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Refuse tensors that hold NaN or Inf: one such number spoils every output."""
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise OnepassError(
                f"{where}, tensor {name}: {bad} of {tensor.numel()} values are NaN or Inf; "
                "the training that made it diverged, train again with a lower learning rate"
            )


def _for_disk(
    tensors: Mapping[str, Tensor], dtype: torch.dtype | None, where: Path | str
) -> dict[str, Tensor]:
    check_finite(tensors, where)
    # Cloned because safetensors refuses tensors that share memory, as views of one matrix do.
    ready = {
        name: tensor.detach().to("cpu", dtype or tensor.dtype).contiguous().clone()
        for name, tensor in tensors.items()
    }
    for name, tensor in ready.items():
        if not bool(torch.isfinite(tensor).all()):
            raise OnepassError(
                f"{where}, tensor {name}: values up to {float(tensors[name].abs().max()):.3g} "
                f"do not fit {tensor.dtype}; save as bfloat16 or float32"
            )
    return ready


def write_tensors(
    tensors: Mapping[str, Tensor],
    path: Path,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file, converted to `dtype` if one is given.

    Call it inside `atomic_file` or `atomic_folder`, which turn its `OSError` (no permission, disk
    full) into an `OnepassError` and leave nothing half-written. Keep `metadata` to one key: their
    order in the file is not fixed, and a saved file should depend on its content alone.
    """
    ready = _for_disk(tensors, dtype, path.name)
    try:
        save_file(ready, path, metadata=dict(metadata or {}))
    except SafetensorError as error:
        raise OSError(str(error)) from error


def stored_bytes(
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """The size in bytes of the file that `write_tensors` would write, its header included."""
    return len(save(_for_disk(tensors, dtype, "to be saved"), metadata=dict(metadata or {})))


@dataclass(frozen=True)
class FolderFiles:
    """What a saved folder consists of: a file that shows its kind, and patterns of all others."""

    marker: str
    others: tuple[str, ...] = ()


def check_replaceable(folder: Path, files: FolderFiles) -> None:
    """Refuse to replace a folder unless it is empty, or holds the marker and nothing foreign.

    Saving replaces the whole folder, so a mistyped path must not cost anyone their files. Nor is
    the current folder replaced: the system refuses that, or the user is left in one that is gone.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OnepassError(f"cannot write {folder}: a file of that name exists; choose another")
    with suppress(FileNotFoundError):  # somebody removed the current folder
        if Path.cwd().is_relative_to(folder.resolve()):
            raise OnepassError(
                f"cannot write {folder}: it is the current folder, or that is inside it; "
                "name a new folder, such as ./new"
            )
    names = sorted(folder.iterdir())
    known = (files.marker, *files.others)
    foreign = [name for name in names if not any(name.match(pattern) for pattern in known)]
    if foreign or (names and folder / files.marker not in names):
        raise OnepassError(
            f"{folder} holds {(foreign or names)[0].name}, which saving here would delete; "
            "choose a new or an empty folder"
        )
