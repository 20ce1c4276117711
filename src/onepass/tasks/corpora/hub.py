"""Rows through the `datasets` library: from the hub, or from a local folder in the hub's layout.

The one place that calls `datasets`. Loading scripts are never run: `datasets` refuses them.
"""

import glob
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from onepass.core.errors import OnepassError
from onepass.core.optional import optional
from onepass.tasks.corpora.files import Record

BUILDERS = {".json": "json", ".parquet": "parquet"}
"""Single files that `datasets` reads, by ending, and its builder for each."""


def hub_splits(repository: str, revision: str | None) -> Mapping[str, Any]:
    """The data set `repository` (OWNER/NAME) of the hub, split by split; downloaded and cached.

    `OnepassError` if it is missing or gated (how to log in), or out of reach (how to do without).
    """
    datasets = _library(f"the hub's data set {repository}")
    try:
        return dict(datasets.load_dataset(repository, revision=revision))
    except Exception as error:  # whatever its builders, the network or the file system raise
        raise _hub_error(repository, revision, error) from error


def local_splits(path: Path) -> Mapping[str, Any]:
    """What the folder, or the one .json or .parquet file, at `path` holds, split by split.

    It is streamed: nothing is copied, and the cache is left alone.
    """
    datasets = _library(str(path))
    place = str(path.resolve())
    if glob.has_magic(place):
        raise OnepassError(f"{place}: datasets takes *, ? and [ for a pattern; rename that folder")
    asked = (
        {"path": place}
        if path.is_dir()
        else {"path": BUILDERS[path.suffix.lower()], "data_files": place}
    )
    try:
        with TemporaryDirectory() as cache:  # for its lock files
            return dict(datasets.load_dataset(**asked, streaming=True, cache_dir=cache))
    except Exception as error:
        raise _local_error(path, error) from error


def records(where: str, split: str, rows: Any) -> Iterator[Record]:
    """The records of one split of either; a file found broken on the way is an `OnepassError`."""
    try:
        for number, fields in enumerate(rows, start=1):
            yield f"{where}, split {split}, row {number}", fields
    except Exception as error:
        raise _local_error(where, error) from error


def _library(what: str) -> Any:
    datasets = optional("datasets", "data", f"reading {what}")
    # What it logs before raising is in the message already.
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    return datasets


def _hub_error(repository: str, revision: str | None, error: Exception) -> OnepassError:
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    page = f"https://huggingface.co/datasets/{repository}"
    name = f"{repository}@{revision}" if revision else repository
    if isinstance(error, (DatasetNotFoundError, GatedRepoError, RepositoryNotFoundError)):
        return OnepassError(
            f"the hub has no data set {name}, or it is private or gated ({_cause(error)}): check "
            f"the name, accept its conditions on {page}, and log in with `hf auth login` or set "
            "HF_TOKEN"
        )
    if "scripts are no longer supported" in str(error):
        return OnepassError(
            f"the hub's data set {name} is a loading script, which is never run; most have a copy "
            f"in parquet: name {repository}@refs/convert/parquet"
        )
    download = f"hf download {repository} --repo-type dataset --local-dir FOLDER"
    if revision:
        download += f" --revision {revision}"
    return OnepassError(
        f"cannot download the data set {name} from the hub ({_cause(error)}); where there is a "
        f"network, `{download}`, then give the FOLDER, or the upstream files, in place of the "
        "name; `onepass data describe` tells where those are"
    )


def _local_error(where: Path | str, error: Exception) -> OnepassError:
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError

    if isinstance(error, (EmptyDatasetError, DataFilesNotFoundError)):
        return OnepassError(
            f"{where} holds no data files; expected .jsonl, .json, .csv, .tsv or .parquet files"
        )
    if "scripts are no longer supported" in str(error):
        return OnepassError(
            f"{where} holds a loading script, which is never run; give a folder of data files"
        )
    return OnepassError(
        f"cannot read {where}: {_cause(error)}; a file may be corrupt, cut short, or a Git LFS "
        "pointer (then `git lfs pull`)"
    )


def _cause(error: BaseException) -> str:
    """What went wrong at the bottom of it, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = " ".join(str(error).split())
    return line[:300] or type(error).__name__
