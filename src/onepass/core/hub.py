"""The hub: a repository's files on this machine, and its errors in words that help.

`huggingface_hub` is imported by the functions that need it: naming a local folder should not wait
for a network library.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from onepass.core.errors import OnepassError

_CACHED = "models--"
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
_BASE = "config.json, tokenizer and safetensors weights"


def is_hub_name(name: str) -> bool:
    """Whether the text could be a hub name: OWNER/NAME, or NAME alone for the oldest models."""
    return _NAME.fullmatch(name) is not None


def cached_name(folder: Path) -> str | None:
    """The hub name of a folder in the hub's cache, .../models--OWNER--NAME/snapshots/REVISION."""
    kept = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not kept.startswith(_CACHED):
        return None
    return kept.removeprefix(_CACHED).replace("--", "/")


def snapshot(name: str, files: Sequence[str]) -> Path:
    """The folder in the cache with those of the `files` that the repository `name` has.

    Raises:
        OnepassError: as `explain` says.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except Exception as error:  # whatever the network, the cache or the hub's client raise
        raise OnepassError(f"cannot load {name}: {explain(name, error, files[0])}") from error


def explain(name: str, error: BaseException, files: str = _BASE) -> str:
    """Why the repository `name` could not be loaded, and what to do.

    error: what the libraries raised. They wrap the hub's errors in their own, so the whole chain
    is looked through. files: what would have been downloaded.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    chain = list(_chain(error))
    page = f"{constants.ENDPOINT}/{name}"
    if any(isinstance(each, GatedRepoError) for each in chain):
        return (
            f"the hub does not let you in: accept the model's licence on {page}, then log in with "
            "`hf auth login` or set HF_TOKEN to a token that may read it"
        )
    if any(isinstance(each, RepositoryNotFoundError) for each in chain):
        return (
            f"there is no folder {name} here and no such model on the hub ({page}); check the "
            "spelling, and if it is a private one log in with `hf auth login` or set HF_TOKEN"
        )
    if any(isinstance(each, OfflineModeIsEnabled | LocalEntryNotFoundError) for each in chain):
        # An unanswered request ends in LocalEntryNotFoundError too.
        cut_off = constants.HF_HUB_OFFLINE
        why = "the hub is switched off (HF_HUB_OFFLINE)" if cut_off else "the hub does not answer"
        return (
            f"there is no folder {name} here, it is not in the cache {constants.HF_HUB_CACHE}, and "
            f"{why}; {files} of {page} would be downloaded. "
            f"Where there is a network run `hf download {name} --local-dir {name}`, then name that "
            "folder; or set HF_HOME to a cache that has the model"
        )
    if any(isinstance(each, HFValidationError) for each in chain):
        return f"there is no folder {name}, and it cannot be a hub name, which is OWNER/MODEL"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
