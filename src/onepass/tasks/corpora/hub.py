"""Data sets of the hub: their files, and which of them belongs to which split.

Loading scripts are never run.
"""

import glob
from pathlib import Path

from onepass.core.errors import OnepassError
from onepass.core.optional import optional
from onepass.tasks.corpora.files import ENDINGS


def download(repository: str, revision: str | None) -> Path:
    """The folder of the data files of OWNER/NAME, from the hub or its cache.

    `OnepassError` if it is missing or gated (how to log in), or out of reach (how to do without).
    """
    from huggingface_hub import snapshot_download

    name = f"{repository}@{revision}" if revision else repository
    wanted = ["README.md", *(f"*{ending}" for ending in ENDINGS)]
    try:
        folder = Path(
            snapshot_download(
                repository, repo_type="dataset", revision=revision, allow_patterns=wanted
            )
        )
    except Exception as error:  # whatever the library, the network or the file system raise
        raise _not_downloaded(repository, revision, name, error) from error
    if not any(file.suffix.lower() in ENDINGS for file in folder.rglob("*")):
        raise OnepassError(
            f"the hub's data set {name} has no {', '.join(ENDINGS)} files; one that is a loading "
            f"script, which is never run, may be at {repository}@refs/convert/parquet"
        )
    return folder


def layout(folder: Path) -> dict[str, list[Path]]:
    """The files of each split of a folder, by the rules of the hub, which `datasets` knows."""
    datasets = optional("datasets", "data", f"finding the splits of {folder}")
    place = str(folder.resolve())
    if glob.has_magic(place):
        raise OnepassError(f"{place}: datasets takes *, ? and [ for a pattern; rename that folder")
    try:
        found = datasets.load_dataset_builder(place).config.data_files or {}
        files = {str(split): [Path(file) for file in found[split]] for split in found}
    except Exception as error:
        raise _no_layout(folder, error) from error
    for file in (file for part in files.values() for file in part):
        if file.suffix.lower() not in ENDINGS:
            raise OnepassError(f"cannot read {file}: expected {', '.join(ENDINGS)} files")
    return files


def _not_downloaded(
    repository: str, revision: str | None, name: str, error: Exception
) -> OnepassError:
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"https://huggingface.co/datasets/{repository}"
    if isinstance(error, (RepositoryNotFoundError, GatedRepoError, RevisionNotFoundError)):
        return OnepassError(
            f"the hub has no data set {name}, or it is private or gated ({_cause(error)}): check "
            f"the name, accept its conditions on {page}, and log in with `hf auth login`, or set "
            "HF_TOKEN"
        )
    command = f"hf download {repository} --repo-type dataset --local-dir FOLDER"
    if revision:
        command += f" --revision {revision}"
    return OnepassError(
        f"cannot download the data set {name} from the hub ({_cause(error)}); where there is a "
        f"network, `{command}`, then give the FOLDER, or the upstream files, in place of the name"
    )


def _no_layout(folder: Path, error: Exception) -> OnepassError:
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError

    if isinstance(error, (EmptyDatasetError, DataFilesNotFoundError)):
        return OnepassError(f"{folder} holds no data files; expected {', '.join(ENDINGS)} files")
    if "scripts are no longer supported" in str(error):
        return OnepassError(
            f"{folder} holds a loading script, which is never run; give a folder of data files"
        )
    return OnepassError(f"cannot tell the splits of {folder}: {_cause(error)}")


def _cause(error: BaseException) -> str:
    """What went wrong at the bottom of it, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = " ".join(str(error).split())
    return line[:300] or type(error).__name__
