"""Why a model could not be loaded by its hub name, and what to do about it."""

from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

_CACHED = "models--"


def explain(name: str, error: BaseException) -> str:
    """Why the model `name` could not be loaded, and what to do; `error` is the libraries' own.

    They wrap the hub's errors in their own, so the whole chain is searched.
    """
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
            f"{why}; config.json, tokenizer and safetensors weights of {page} would be downloaded. "
            f"Where there is a network run `hf download {name} --local-dir FOLDER`, then name that "
            "FOLDER; or set HF_HOME to a cache that has the model"
        )
    if any(isinstance(each, HFValidationError) for each in chain):
        return f"there is no folder {name}, and it cannot be a hub name, which is OWNER/MODEL"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def cached_name(folder: Path) -> str | None:
    """The hub name of a folder in the hub's cache, .../models--OWNER--NAME/snapshots/REVISION."""
    kept = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not kept.startswith(_CACHED):
        return None
    return kept.removeprefix(_CACHED).replace("--", "/")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
