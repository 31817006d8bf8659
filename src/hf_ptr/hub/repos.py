"""Places: folders here, or repositories on the Hub (`user/name`, `user/name@revision`), which become folders here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.score_file import SCORES_FILE
from hf_ptr.errors import InputError, nearest
from hf_ptr.utils.pickle_guard import PICKLES, pickles, refuse_pickles

HUB_ID = re.compile(r"(?P<repo_id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>\S+))?")
# `models--user--name/snapshots/<commit>`, as huggingface_hub lays out its cache.
SNAPSHOT = re.compile(r"(models|datasets)--(?P<owner>.+?)--(?P<name>.+)/snapshots/(?P<commit>[0-9a-f]{40})")
LAST_CHECKPOINT = "last-checkpoint"
UNREACHED = (
    "the Hub cannot be reached, and nothing of the push can be seen; start it again when there is a connection: what "
    "was sent is not sent again"
)
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class HubRepo:
    """A repository on the Hub, and the revision that is meant; None for its main branch."""

    repo_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo_id if self.revision is None else f"{self.repo_id}@{self.revision}"


def parse_hub_repo(place: str | os.PathLike) -> HubRepo | None:
    """The repository that a place names; None for what is here, or cannot be the name of one."""
    text = str(place)
    found = HUB_ID.fullmatch(text)
    return None if found is None or os.path.exists(text) else HubRepo(found["repo_id"], found["revision"])


def model_folder(place: str | os.PathLike, only: Sequence[str] | None = None) -> Path:
    """
    The folder of a model, pulled from the Hub where the place names a repository. Training states are left there.

    Args:
        place: a folder, `user/name` or `user/name@revision`.
        only: patterns of files to pull.

    Raises:
        InputError: when it is on neither side, may not be read, cannot be reached, or holds pickled weights.
    """
    there = parse_hub_repo(place)
    if there is None and not os.path.exists(place):
        raise InputError(f"{place} is no folder here, and no name on the Hub; pass a run's folder, or user/name")
    if there is None:
        return Path(place)
    with explain_hub_errors(there, "model"):
        refuse_pickles(_files(there), there)
        return _pulled(
            there, "model", only, ignore=None if only else [*_training_states(), *map("*{}".format, PICKLES)]
        )


def name_and_revision(place: str | os.PathLike) -> tuple[str, str | None]:
    """
    The name and the revision by which transformers loads a pretrained part of a policy, which others have trained.

    Args:
        place: a folder, `user/name` or `user/name@revision`.

    Raises:
        InputError: as [`model_folder`]; pickled weights are let lie where there are safetensors, too.
    """
    there = parse_hub_repo(place)
    if there is None:
        return str(place), None
    with explain_hub_errors(there, "model"):
        files = _files(there)
        if not any(name.endswith(".safetensors") for name in files):
            refuse_pickles(files, there)
    return there.repo_id, there.revision


def dataset_folder(place: str | os.PathLike, features: Sequence[str] = ()) -> Path:
    """
    The folder of a LeRobotDataset, pulled from the Hub where the place names a repository.

    Args:
        place: a folder, `user/name` or `user/name@revision`.
        features: what will be read; the videos and images of other cameras are not pulled.

    Raises:
        InputError: as [`model_folder`].
    """
    there = parse_hub_repo(place)
    if there is None:
        return Path(place)
    with explain_hub_errors(there, "dataset"):
        seen = [f"{kind}/*{name}/*" for kind in ("videos", "images") for name in features]
        return _pulled(there, "dataset", ["meta/*", "data/*", *seen])


def score_file_path(place: str | os.PathLike) -> Path:
    """
    A score file, pulled from the Hub where the place names a dataset of one.

    Raises:
        InputError: as [`model_folder`], and when the repository holds no score file.
    """
    there = parse_hub_repo(place)
    if there is None:
        return Path(place)
    with explain_hub_errors(there, "dataset"):
        folder = _pulled(there, "dataset", ["*.parquet"])
    if not (folder / SCORES_FILE).is_file():
        raise InputError(
            f"{there} holds no {SCORES_FILE}; push one with hf-ptr push scores FILE --repo-id {there.repo_id}"
        )
    return folder / SCORES_FILE


def checkpoint_folder(place: str | os.PathLike) -> Path:
    """
    The folder of a training checkpoint to go on from, pulled from the Hub where the place names a repository: its
    `last-checkpoint`, or the newest of its `checkpoint-N`, as `hub_strategy` pushes them.

    Raises:
        InputError: as [`model_folder`], and when the repository holds no checkpoint.
    """
    there = parse_hub_repo(place)
    if there is None:
        return Path(place)
    with explain_hub_errors(there, "model"):
        files = _files(there) or [f"{LAST_CHECKPOINT}/"]
        names = {name.partition("/")[0] for name in files if "/" in name}
        steps = sorted(
            int(name.removeprefix("checkpoint-")) for name in names if re.fullmatch(r"checkpoint-\d+", name)
        )
        chosen = LAST_CHECKPOINT if LAST_CHECKPOINT in names else f"checkpoint-{steps[-1]}" if steps else None
        if chosen is None:
            raise InputError(
                f"{there} holds no checkpoint to go on from; push with hub_strategy=checkpoint, or pass it as policy"
            )
        pickled = pickles(name for name in files if name.startswith(f"{chosen}/"))
        if pickled:
            raise InputError(
                f"{there} holds {pickled[0]}, a pickle, which hf-ptr no longer writes, nor opens; start a new run "
                f"with policy set to {there}"
            )
        return _pulled(there, "model", [f"{chosen}/*"]) / chosen


def with_origin(table: EpisodeTable, folder: str | os.PathLike) -> EpisodeTable:
    """A table read from a folder, under the name and commit of the repository that the folder was pulled from."""
    there = origin(folder)
    return table if there is None else replace(table, source=there.repo_id, revision=there.revision)


def pull_videos(table: EpisodeTable, cameras: Sequence[str]) -> None:
    """
    Pulls the videos of cameras that a policy sees through, of a dataset whose tables were pulled from the Hub.

    Raises:
        InputError: as [`model_folder`].
    """
    seen = [name for name in cameras if name in table.videos]
    if table.revision is not None and seen:
        dataset_folder(f"{table.source}@{table.revision}", seen)


def origin(folder: str | os.PathLike) -> HubRepo | None:
    """The repository and commit that a folder of the Hub's cache was pulled from; None for other folders."""
    found = SNAPSHOT.search(Path(folder).as_posix())
    return None if found is None else HubRepo(f"{found['owner']}/{found['name']}", found["commit"])


def is_unreachable(error: BaseException) -> bool:
    """Whether an error says that there is no connection, or that none is wanted."""
    # The client's errors of the network are those of its HTTP library, which is not the same in all its versions.
    network = type(error).__module__.partition(".")[0] in ("httpx", "httpx2") and not hasattr(error, "response")
    return network or isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError | ConnectionError)


@contextmanager
def explain_hub_errors(there: HubRepo, kind: str, pushing: bool = False) -> Iterator[None]:
    """
    Says in one line what the Hub's client complains of, and what to do about it.

    Args:
        there: the repository.
        kind: `"model"` or `"dataset"`.
        pushing: whether it is written to.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            line = UNREACHED if pushing and is_unreachable(cause) else _line(cause, there, kind)
            if line is not None:
                raise InputError(line) from error
            cause = cause.__cause__
        raise


def _training_states() -> list[str]:
    return [f"{LAST_CHECKPOINT}/*", "checkpoint-*/*"]


def _pulled(there: HubRepo, kind: str, only: Sequence[str] | None, ignore: Sequence[str] | None = None) -> Path:
    folder = snapshot_download(
        there.repo_id,
        repo_type=kind,
        revision=there.revision,
        allow_patterns=None if only is None else list(only),
        ignore_patterns=None if ignore is None else list(ignore),
    )
    return Path(folder)


def _files(there: HubRepo) -> list[str]:
    """The files of a model; none without a connection: what was pulled before was looked at then."""
    try:
        info = HfApi().model_info(there.repo_id, revision=there.revision)
    except Exception as error:
        if is_unreachable(error):
            return []
        raise
    return [file.rfilename for file in info.siblings or ()]


def _line(error: BaseException, there: HubRepo, kind: str) -> str | None:
    """What an error means to the user; None for one that is not the Hub's."""
    where = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{there.repo_id}"
    if isinstance(error, GatedRepoError):
        return f"the {kind} {there} is gated: ask for access at {where}, then {LOGIN}"
    if isinstance(error, RevisionNotFoundError):
        return f"the {kind} {there.repo_id} has no revision {there.revision!r}.{_revisions(there, kind)}"
    if isinstance(error, RemoteEntryNotFoundError):
        return f"the {kind} {there} lacks a file that is needed; push it again"
    if isinstance(error, RepositoryNotFoundError):
        hidden = "your token may not read it" if get_token() else f"it is private: {LOGIN}"
        return f"{there.repo_id} is no folder here and no {kind} on the Hub; check the name, or {hidden}"
    if isinstance(error, LocalTokenNotFoundError):
        return f"no token to write to the Hub with: {LOGIN}"
    if isinstance(error, HfHubHTTPError):
        return _of_status(error, there, kind)
    if is_unreachable(error):
        return (
            f"the {kind} {there} is neither a folder here nor in the cache, and the Hub cannot be reached; check the "
            "path or the connection, or pull it once while there is one"
        )
    return f"{there.repo_id} is no name for a repository: {error}" if isinstance(error, HFValidationError) else None


def _of_status(error: HfHubHTTPError, there: HubRepo, kind: str) -> str:
    status = error.response.status_code
    if status == 401:
        return f"the Hub refuses the token; {LOGIN} anew"
    if status == 403:
        told = error.response.headers.get("X-Error-Message") or "the token may not do this"
        return f"the Hub refuses {there}: {told}; use a token with write access, or a name of your own"
    if status == 400:
        return f"the Hub refuses {there}: {error.server_message or error}"
    return f"the Hub answers {status} for the {kind} {there} ({error.server_message or 'no reason'}); try again later"


def _revisions(there: HubRepo, kind: str) -> str:
    """The revisions that a repository has, as far as it says."""
    try:
        refs = HfApi().list_repo_refs(there.repo_id, repo_type=kind)
    except Exception:
        return " Name a branch, a tag or a commit"
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    return f"{nearest(str(there.revision), names)} It has {', '.join(names[:8])}"
