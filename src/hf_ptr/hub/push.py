"""Pushing: one commit that is there whole or not at all, and that takes away what an earlier one left behind."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from hf_ptr.errors import InputError
from hf_ptr.hub.repos import LAST_CHECKPOINT, LOGIN, HubRepo, explain_hub_errors
from hf_ptr.utils.pickle_guard import refuse_pickles_in

# What a run's folder holds for others: the model with its parts, what made it, and its card. No logs, no pickle.
PUSHED = (".json", ".safetensors", ".yaml", ".md", ".txt", ".model", ".jinja", ".png")
# Trainer's own checkpoint folders, and what begins so is hidden or half written.
LEFT_OUT = re.compile(r"checkpoint-\d+|[._].*")
# Of these a new push replaces all: a run without a scorer must not leave the scorer of the one before.
PARTS = ("ptr", "scorer", "belief_tokenizer", "target_encoder")
ROOT_WEIGHTS = re.compile(r"(model|adapter_model).*\.safetensors(\.index\.json)?|(adapter_)?config\.json")
ATTEMPTS = 5
# Vocabulary files, in which a text that begins with a slash is a token, not a path.
VOCABULARIES = ("tokenizer.json", "vocab.json")


def require_writable(
    repo_id: str, kind: str = "model", *, private: bool | None = None, token: str | None = None
) -> str:
    """
    Asks the Hub whether a repository can be pushed to, and makes none.

    Args:
        repo_id: `user/name`, or `name` for one of the token's owner.
        kind: `"model"` or `"dataset"`.
        private: whether it is to be private.
        token: to write with; None for the one of `hf auth login` or HF_TOKEN.

    Returns:
        `user/name`.

    Raises:
        InputError: without a token or a connection, where the token may not write, and where a private one is asked
            for and a public one is there.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is no name for a repository; write user/name") from error
    api = HfApi(token=token)
    with explain_hub_errors(HubRepo(repo_id), kind, pushing=True):
        # Without a token other requests are sent all the same, and only told that they are unauthorised.
        me = api.whoami()
        full = repo_id if "/" in repo_id else f"{me['name']}/{repo_id}"
        _require_role(me, full.partition("/")[0])
        if private and _is_public(api, full, kind):
            raise InputError(
                f"{full} is there and public, and private was asked for: make it private in its settings on the Hub, "
                "or choose another name"
            )
    return full


def ensure_repository(
    repo_id: str,
    kind: str = "model",
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """
    Makes a repository, and the branch that is pushed to, where they are not there yet.

    Args:
        repo_id, kind, token: as of [`require_writable`].
        private: whether a new one is private; None as the owner has set it.
        revision: the branch; None for the main one.

    Returns:
        `user/name`.

    Raises:
        InputError: as [`require_writable`].
    """
    full, api = require_writable(repo_id, kind, private=private, token=token), HfApi(token=token)
    with explain_hub_errors(HubRepo(full, revision), kind, pushing=True):
        api.create_repo(full, repo_type=kind, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(full, repo_type=kind, branch=revision, exist_ok=True)
    return full


def _require_role(me: Mapping[str, Any], owner: str) -> None:
    """Refuses a token that can be seen not to write there; what a fine-grained one may do, only the Hub knows."""
    role = me.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise InputError(f"the token of {me['name']} may only read; {LOGIN} with one that may write")
    own = [me["name"], *(each["name"] for each in me.get("orgs") or () if each.get("roleInOrg") != "read")]
    if role == "write" and owner.lower() not in {name.lower() for name in own}:
        raise InputError(
            f"the token is that of {me['name']}, who may not write to {owner}; use a token with write access, or a "
            "name of your own"
        )


def _is_public(api: HfApi, repo_id: str, kind: str) -> bool:
    try:
        return not api.repo_info(repo_id, repo_type=kind).private
    except RepositoryNotFoundError:
        return False


def push_files(
    files: Mapping[str, Path],
    repo_id: str,
    kind: str = "model",
    *,
    message: str,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """
    Pushes files in one commit. What is already there is not sent again, so an interrupted push goes on when repeated.

    Two pushes at once come one after the other: each commit holds the files of one of them, never of both.

    Args:
        files: by path in the repository.
        repo_id: of a repository that is there.
        kind: `"model"` or `"dataset"`.
        message: of the commit.
        revision: the branch; None for the main one.
        token: to write with; None for the one of `hf auth login` or HF_TOKEN.

    Returns:
        The commit.

    Raises:
        InputError: when the connection breaks off, or the token may not write. Nothing of the push is visible then.
    """
    api = HfApi(token=token)
    with explain_hub_errors(HubRepo(repo_id, revision), kind, pushing=True):
        for attempt in range(ATTEMPTS):
            head = api.repo_info(repo_id, repo_type=kind, revision=revision)
            there = {file.rfilename for file in getattr(head, "siblings", None) or ()}
            stale = [path for path in sorted(there - files.keys()) if _is_replaced(path, files)]
            try:
                commit = api.create_commit(
                    repo_id,
                    [
                        *(CommitOperationAdd(path, str(file)) for path, file in files.items()),
                        *(CommitOperationDelete(path) for path in stale),
                    ],
                    commit_message=message,
                    repo_type=kind,
                    revision=revision,
                    parent_commit=head.sha,
                )
            except HfHubHTTPError as error:
                # 412: another push came between. What to take away must be looked up anew.
                if error.response.status_code != 412 or attempt == ATTEMPTS - 1:
                    raise
            else:
                return str(commit.oid)
    raise AssertionError("unreachable")


def run_files(folder: str | Path) -> dict[str, Path]:
    """
    What is pushed of a run's folder or of a saved component, by path in the repository.

    Raises:
        InputError: when the folder holds no saved model, or a pickle.
    """
    root = Path(folder)
    if not any((root / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise InputError(f"{root} holds no saved model (no config.json); pass the output_dir of a run that is trained")
    refuse_pickles_in(root)
    files = {path.relative_to(root): path for path in sorted(root.rglob("*")) if path.is_file()}
    return {
        path.as_posix(): file
        for path, file in files.items()
        if path.suffix in PUSHED and not any(LEFT_OUT.fullmatch(part) for part in path.parts)
    }


def without_local_paths(content: Any) -> Any:
    """The content of a JSON or YAML file, with the name in place of each absolute path."""
    if isinstance(content, dict):
        return {key: without_local_paths(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_local_paths(value) for value in content]
    if isinstance(content, str) and os.path.isabs(os.path.expanduser(content)):
        return Path(content).name or content
    return content


def strip_local_paths(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """
    Writes copies of those files that name absolute paths, without these.

    Args:
        files: by path in the repository.
        folder: a new one, for the copies.

    Returns:
        The files to push, by path in the repository: copies, and whatever needs none as it is.

    Raises:
        InputError: when a JSON or YAML file is damaged.
    """
    public = dict(files)
    for number, (name, path) in enumerate(files.items()):
        kind = PurePosixPath(name).suffix
        if kind not in (".json", ".yaml") or PurePosixPath(name).name in VOCABULARIES:
            continue
        try:
            content = (json.loads if kind == ".json" else yaml.safe_load)(path.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError) as error:
            raise InputError(f"{name} is damaged ({type(error).__name__}), and is not pushed; train again") from error
        told = without_local_paths(content)
        if told == content:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        public[name] = folder / str(number)
        as_json = kind == ".json"
        text = json.dumps(told, indent=2) + "\n" if as_json else yaml.safe_dump(told, allow_unicode=True)
        public[name].write_text(text, encoding="utf-8")
    return public


def _is_replaced(path: str, pushed: Iterable[str]) -> bool:
    """Whether a file that is not pushed again is of an earlier model, or of an earlier checkpoint to go on from."""
    first, slash, _ = path.partition("/")
    if not slash:
        return ROOT_WEIGHTS.fullmatch(path) is not None
    renewed = first == LAST_CHECKPOINT and any(name.startswith(f"{LAST_CHECKPOINT}/") for name in pushed)
    return first in PARTS or renewed
