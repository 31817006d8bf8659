"""Sources: a local path, or a repository on the Hub (`user/name`, `user/name@revision`) that is downloaded."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from huggingface_hub.file_download import repo_folder_name

from hf_ptr.errors import DataWarning, InputError, nearest
from hf_ptr.utils.pickle_guard import PICKLES, pickles, refuse_pickles

HUB_ID = re.compile(r"(?P<repo_id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>\S+))?")
# A repository of several datasets: each is in a separate folder.
HUB_DATASET = re.compile(
    r"(?P<repo_id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(/(?P<folder>[\w-][\w.-]*(/[\w-][\w.-]*)*)/?)?"
    r"(@(?P<revision>\S+))?"
)
# `models--user--name/snapshots/<commit>`: the layout of the cache of huggingface_hub.
SNAPSHOT = re.compile(
    r"(models|datasets)--(?P<owner>.+?)--(?P<name>.+)/snapshots/(?P<commit>[0-9a-f]{40})(/(?P<folder>.+))?"
)
LAST_CHECKPOINT = "last-checkpoint"
UNREACHABLE = (
    "the Hub cannot be reached, and nothing of this push is visible; push again when there is a connection: uploaded "
    "files are not sent twice"
)
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True)
class HubRepo:
    """
    A repository on the Hub.

    Attributes:
        repo_id: `user/name`.
        revision: branch, tag or commit; None for the main branch.
        folder: folder of a dataset in the repository; empty for the repository itself.
    """

    repo_id: str
    revision: str | None = None
    folder: str = ""

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    @property
    def name(self) -> str:
        """`user/name`, with the folder if there is one."""
        return f"{self.repo_id}/{self.folder}" if self.folder else self.repo_id


def parse_hub_repo(source: str | os.PathLike) -> HubRepo | None:
    """The repository that `source` names; None for an existing local path, or text that is not a repo id."""
    text = str(source)
    found = HUB_ID.fullmatch(text)
    return None if found is None or os.path.exists(text) else HubRepo(found["repo_id"], found["revision"])


def parse_hub_dataset(source: str | os.PathLike) -> HubRepo | None:
    """The repository, and the folder in it, that `source` names; None as for [`parse_hub_repo`]."""
    text = str(source)
    found = HUB_DATASET.fullmatch(text)
    if found is None or os.path.exists(text):
        return None
    return HubRepo(found["repo_id"], found["revision"], found["folder"] or "")


def model_folder(source: str | os.PathLike, only: Sequence[str] | None = None) -> Path:
    """
    The local folder of a model. A model on the Hub is downloaded without its training checkpoints.

    Args:
        source: path, `user/name` or `user/name@revision`.
        only: patterns of the files to download; None downloads all but checkpoints and pickles.

    Raises:
        InputError: the model exists neither locally nor on the Hub, may not be read, cannot be reached, or holds
            pickled weights.
    """
    repo = parse_hub_repo(source)
    if repo is None and not os.path.exists(source):
        raise InputError(f"{source} is neither a local folder nor a repo id; pass a run's folder, or user/name")
    if repo is None:
        return Path(source)
    with explain_hub_errors(repo, "model"):
        refuse_pickles(_model_files(repo), repo)
        ignore = None if only else [f"{LAST_CHECKPOINT}/*", "checkpoint-*/*", *map("*{}".format, PICKLES)]
        return _download(repo, "model", only, ignore)


def name_and_revision(source: str | os.PathLike) -> tuple[str, str | None]:
    """
    The arguments by which transformers loads a pretrained part of a policy (a vision tower, a text encoder).

    Args:
        source: path, `user/name` or `user/name@revision`.

    Returns:
        Path or repo id, and the revision.

    Raises:
        InputError: see [`model_folder`]. Pickled weights are allowed next to safetensors, which are loaded.
    """
    repo = parse_hub_repo(source)
    if repo is None:
        return str(source), None
    with explain_hub_errors(repo, "model"):
        files = _model_files(repo)
        if not any(name.endswith(".safetensors") for name in files):
            refuse_pickles(files, repo)
    return repo.repo_id, repo.revision


def dataset_folder(source: str | os.PathLike, cameras: Sequence[str] | None = ()) -> Path:
    """
    The local folder of a LeRobotDataset. Tables and metadata of a dataset on the Hub are downloaded.

    Args:
        source: path, `user/name` or `user/name@revision`; with several datasets in a repository,
            `user/name/FOLDER`.
        cameras: features whose videos or images are downloaded too; None downloads all. Other features are ignored.

    Raises:
        InputError: see [`model_folder`].
    """
    repo = parse_hub_dataset(source)
    if repo is None:
        return Path(source)
    names = ["*"] if cameras is None else cameras
    with explain_hub_errors(repo, "dataset"):
        frames = [f"{kind}/*{name}/*" for kind in ("videos", "images") for name in names]
        within = f"{repo.folder}/" if repo.folder else ""
        wanted = [f"{within}{name}" for name in ("meta/*", "data/*", *frames)]
        try:
            folder = _download(repo, "dataset", wanted)
        except Exception as error:
            cached = _only_snapshot(repo) if is_unreachable(error) else None
            if cached is None:
                raise
            folder = cached
        folder /= repo.folder
    if not folder.is_dir():
        raise InputError(f"the dataset {repo.repo_id} has no folder {repo.folder!r}; check the name")
    return folder


def dataset_files(repo: HubRepo, patterns: Sequence[str]) -> Path:
    """
    The local folder of a dataset on the Hub, with the files that match the patterns.

    Raises:
        InputError: see [`model_folder`].
    """
    with explain_hub_errors(repo, "dataset"):
        return _download(repo, "dataset", patterns)


def checkpoint_folder(source: str | os.PathLike) -> Path:
    """
    The local folder of a training checkpoint to resume from.

    From the Hub, `last-checkpoint` is downloaded, or else the newest `checkpoint-N`, as `hub_strategy` pushes them.

    Raises:
        InputError: see [`model_folder`]; also when the repository holds no checkpoint, or a pickled one.
    """
    repo = parse_hub_repo(source)
    if repo is None:
        return Path(source)
    with explain_hub_errors(repo, "model"):
        files = _model_files(repo) or [f"{LAST_CHECKPOINT}/"]
        names = {name.partition("/")[0] for name in files if "/" in name}
        steps = sorted(
            int(name.removeprefix("checkpoint-")) for name in names if re.fullmatch(r"checkpoint-\d+", name)
        )
        chosen = LAST_CHECKPOINT if LAST_CHECKPOINT in names else f"checkpoint-{steps[-1]}" if steps else None
        if chosen is None:
            raise InputError(
                f"{repo} holds no checkpoint to resume from; push with hub_strategy=checkpoint, or pass it as policy"
            )
        pickled = pickles(name for name in files if name.startswith(f"{chosen}/"))
        if pickled:
            raise InputError(
                f"{repo} holds {pickled[0]}, a pickle, which hf-ptr neither writes nor opens; start a new run with "
                f"policy set to {repo}"
            )
        return _download(repo, "model", [f"{chosen}/*"]) / chosen


def origin(folder: str | os.PathLike) -> HubRepo | None:
    """The repository and commit that a folder in the Hub's cache was downloaded from; None for other folders."""
    found = SNAPSHOT.search(Path(folder).as_posix())
    if found is None:
        return None
    return HubRepo(f"{found['owner']}/{found['name']}", found["commit"], found["folder"] or "")


def is_unreachable(error: BaseException) -> bool:
    """Whether an error means that there is no connection, or that offline mode is on."""
    # Network errors of the client are those of its HTTP library, which differs between versions.
    network = type(error).__module__.partition(".")[0] in ("httpx", "httpx2") and not hasattr(error, "response")
    return network or isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError | ConnectionError)


@contextmanager
def explain_hub_errors(repo: HubRepo, kind: str, pushing: bool = False) -> Iterator[None]:
    """
    Turns errors of the Hub's client into an `InputError` with the cause and its fix.

    Args:
        repo: the repository that is read or written.
        kind: `"model"` or `"dataset"`.
        pushing: whether the repository is written to.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            line = UNREACHABLE if pushing and is_unreachable(cause) else _explanation(cause, repo, kind)
            if line is not None:
                raise InputError(line) from error
            cause = cause.__cause__
        raise


def _download(repo: HubRepo, kind: str, only: Sequence[str] | None, ignore: Sequence[str] | None = None) -> Path:
    folder = snapshot_download(
        repo.repo_id,
        repo_type=kind,
        revision=repo.revision,
        allow_patterns=None if only is None else list(only),
        ignore_patterns=None if ignore is None else list(ignore),
    )
    return Path(folder)


def _only_snapshot(repo: HubRepo) -> Path | None:
    """The one snapshot of a dataset in a cache that was copied here without its branches; None if there are others."""
    home = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo.repo_id, repo_type="dataset")
    found = sorted(home.glob("snapshots/*"))
    if len(found) != 1 or repo.revision not in (None, "main", found[0].name):
        return None
    if repo.revision != found[0].name:
        message = f"the Hub cannot be reached; {repo} is read from the cache at commit {found[0].name}"
        warnings.warn(message, DataWarning, stacklevel=2)
    return found[0]


def _model_files(repo: HubRepo) -> list[str]:
    """The files of a model; empty without a connection: a model in the cache was checked when it was downloaded."""
    try:
        info = HfApi().model_info(repo.repo_id, revision=repo.revision)
    except Exception as error:
        if is_unreachable(error):
            return []
        raise
    return [file.rfilename for file in info.siblings or ()]


def _explanation(error: BaseException, repo: HubRepo, kind: str) -> str | None:
    """The meaning of an error to the user; None for an error that does not come from the Hub."""
    where = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo.repo_id}"
    if isinstance(error, GatedRepoError):
        return f"the {kind} {repo} is gated: request access at {where}, then {LOGIN}"
    if isinstance(error, RevisionNotFoundError):
        return f"the {kind} {repo.repo_id} has no revision {repo.revision!r}.{_revisions(repo, kind)}"
    if isinstance(error, RemoteEntryNotFoundError):
        return f"the {kind} {repo} lacks a required file; push it again"
    if isinstance(error, RepositoryNotFoundError):
        hidden = "use a token that may read it" if get_token() else f"if it is private, {LOGIN}"
        return f"{repo.name} is neither a local folder nor a {kind} on the Hub; check the name, or {hidden}; {_here()}"
    if isinstance(error, LocalTokenNotFoundError):
        return f"writing to the Hub needs a token: {LOGIN}"
    if isinstance(error, HfHubHTTPError):
        return _status_explanation(error, repo, kind)
    if is_unreachable(error):
        return (
            f"the {kind} {repo} is neither a local folder nor in the cache, and the Hub cannot be reached; check the "
            f"path or the connection; {_here()}"
        )
    return f"{repo.repo_id} is not a valid repo id: {error}" if isinstance(error, HFValidationError) else None


def _here() -> str:
    """Where a local path is looked for: a recipe that is started in another folder names data that is not there."""
    return f"a local path is relative to {Path.cwd()}"


def _status_explanation(error: HfHubHTTPError, repo: HubRepo, kind: str) -> str:
    status = error.response.status_code
    if status == 401:
        return f"the Hub rejects the token; {LOGIN} to a valid one"
    if status == 403:
        reason = error.response.headers.get("X-Error-Message") or "the token may not do this"
        return f"the Hub refuses {repo}: {reason}; use a token with write access, or a name in your own namespace"
    if status == 400:
        return f"the Hub refuses {repo}: {error.server_message or error}"
    return (
        f"the Hub returned status {status} for the {kind} {repo} ({error.server_message or 'no reason given'}); "
        "try again later"
    )


def _revisions(repo: HubRepo, kind: str) -> str:
    """The nearest revision and the first revisions of a repository, as far as the Hub lists them."""
    try:
        refs = HfApi().list_repo_refs(repo.repo_id, repo_type=kind)
    except Exception:
        return " Name a branch, a tag or a commit"
    names = [ref.name for ref in (*refs.branches, *refs.tags)]
    return f"{nearest(str(repo.revision), names)} It has {', '.join(names[:8])}"
