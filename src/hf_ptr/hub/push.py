"""Pushes: one atomic commit, which also deletes the stale files of earlier pushes and names no local path."""

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
from hf_ptr.utils.yaml_values import dump_values

# Pushed from the folder of a run: the model with its parts, its settings and its card. No logs, no pickles.
PUSHED = (".json", ".safetensors", ".yaml", ".md", ".txt", ".model", ".jinja", ".png")
# Checkpoint folders of `Trainer`, and hidden or half-written files.
LEFT_OUT = re.compile(r"checkpoint-\d+|[._].*")
# Folders that a push replaces as a whole: a run without a scorer must not leave the scorer of an earlier run.
PARTS = ("ptr", "scorer", "belief_tokenizer", "target_encoder")
ROOT_WEIGHTS = re.compile(r"(model|adapter_model).*\.safetensors(\.index\.json)?|(adapter_)?config\.json")
ATTEMPTS = 5
# Vocabulary files, in which a text that begins with a slash is a token, not a path.
VOCABULARIES = ("tokenizer.json", "vocab.json")


def require_writable(
    repo_id: str, kind: str = "model", *, private: bool | None = None, token: str | None = None
) -> str:
    """
    Checks that a repository can be written, and creates nothing.

    Args:
        repo_id: `user/name`, or `name` in the namespace of the token's owner.
        kind: `"model"`, `"dataset"` or `"space"`, a static one.
        private: whether the repository must be private.
        token: token to write with; None for that of `hf auth login` or HF_TOKEN.

    Returns:
        `user/name`.

    Raises:
        InputError: there is no token or no connection, the token may not write, or a private repository is requested
            and a public one exists.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is not a valid repo id; write user/name") from error
    api = HfApi(token=token)
    with explain_hub_errors(HubRepo(repo_id), kind, pushing=True):
        # First, because other requests are sent without a token too, and fail with nothing but `unauthorised`.
        me = api.whoami()
        full = repo_id if "/" in repo_id else f"{me['name']}/{repo_id}"
        _require_role(me, full.partition("/")[0])
        if private and _is_public(api, full, kind):
            raise InputError(
                f"{full} exists and is public, but private was requested; make it private in its settings on the Hub, "
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
    Creates a repository, and the branch to push to, unless they exist.

    Args:
        repo_id, kind, token: see [`require_writable`].
        private: whether a new repository is private; None for the owner's default.
        revision: branch; None for the main branch.

    Returns:
        `user/name`.

    Raises:
        InputError: see [`require_writable`].
    """
    full, api = require_writable(repo_id, kind, private=private, token=token), HfApi(token=token)
    with explain_hub_errors(HubRepo(full, revision), kind, pushing=True):
        sdk = "static" if kind == "space" else None
        api.create_repo(full, repo_type=kind, space_sdk=sdk, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(full, repo_type=kind, branch=revision, exist_ok=True)
    return full


def _require_role(me: Mapping[str, Any], owner: str) -> None:
    """Refuses a token that cannot write there. The rights of a fine-grained token are known to the Hub only."""
    role = me.get("auth", {}).get("accessToken", {}).get("role")
    if role == "read":
        raise InputError(f"the token of {me['name']} is read-only; {LOGIN} with write access")
    own = [me["name"], *(each["name"] for each in me.get("orgs") or () if each.get("roleInOrg") != "read")]
    if role == "write" and owner.lower() not in {name.lower() for name in own}:
        raise InputError(
            f"the token belongs to {me['name']}, who may not write to {owner}; use a token with write access, or a "
            "name in your own namespace"
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
    Pushes files in one commit. Uploaded files are not sent again, so repeating an interrupted push resumes it.

    Concurrent pushes are serialised: each commit holds the files of one push, never of two.

    Args:
        files: local files by path in the repository.
        repo_id: an existing repository.
        kind: `"model"`, `"dataset"` or `"space"`, a static one.
        message: commit message.
        revision: branch; None for the main branch.
        token: token to write with; None for that of `hf auth login` or HF_TOKEN.

    Returns:
        The hash of the commit.

    Raises:
        InputError: the connection is lost, or the token may not write. Nothing of the push is visible then.
    """
    api = HfApi(token=token)
    with explain_hub_errors(HubRepo(repo_id, revision), kind, pushing=True):
        for attempt in range(ATTEMPTS):
            head = api.repo_info(repo_id, repo_type=kind, revision=revision)
            present = {file.rfilename for file in getattr(head, "siblings", None) or ()}
            stale = [path for path in sorted(present - files.keys()) if _is_stale(path, files)]
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
                # 412: another push has committed in between, so the stale files must be listed again.
                if error.response.status_code != 412 or attempt == ATTEMPTS - 1:
                    raise
            else:
                return str(commit.oid)
    raise AssertionError("unreachable")


def run_files(folder: str | Path) -> dict[str, Path]:
    """
    The files to push from the folder of a run or of a saved component, by path in the repository.

    Raises:
        InputError: the folder holds no saved model, or holds a pickle.
    """
    root = Path(folder)
    if not any((root / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise InputError(f"{root} holds no saved model (no config.json); pass the output_dir of a finished run")
    refuse_pickles_in(root)
    files = {path.relative_to(root): path for path in sorted(root.rglob("*")) if path.is_file()}
    return {
        path.as_posix(): file
        for path, file in files.items()
        if path.suffix in PUSHED and not any(LEFT_OUT.fullmatch(part) for part in path.parts)
    }


def without_local_paths(content: Any) -> Any:
    """The content of a JSON or YAML file, with each absolute path replaced by its last part."""
    if isinstance(content, dict):
        return {key: without_local_paths(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_local_paths(value) for value in content]
    if isinstance(content, str) and os.path.isabs(os.path.expanduser(content)):
        return Path(content).name or content
    return content


def strip_local_paths(files: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """
    Replaces JSON and YAML files that contain absolute paths by copies without them.

    Args:
        files: local files by path in the repository.
        folder: a new folder for the copies.

    Returns:
        The files to push by path in the repository: the copies, and all other files unchanged.

    Raises:
        InputError: a JSON or YAML file is damaged.
    """
    public = dict(files)
    for number, (name, path) in enumerate(files.items()):
        kind = PurePosixPath(name).suffix
        if kind not in (".json", ".yaml") or PurePosixPath(name).name in VOCABULARIES:
            continue
        try:
            content = (json.loads if kind == ".json" else yaml.safe_load)(path.read_text(encoding="utf-8"))
        except (ValueError, yaml.YAMLError) as error:
            raise InputError(
                f"{name} is damaged ({type(error).__name__}) and cannot be pushed; train again"
            ) from error
        stripped = without_local_paths(content)
        if stripped == content:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        public[name] = folder / str(number)
        as_json = kind == ".json"
        text = json.dumps(stripped, indent=2) + "\n" if as_json else dump_values(stripped)
        public[name].write_text(text, encoding="utf-8")
    return public


def _is_stale(path: str, pushed: Iterable[str]) -> bool:
    """Whether a file that this push lacks belongs to an earlier model or an earlier checkpoint."""
    first, slash, _ = path.partition("/")
    if not slash:
        return ROOT_WEIGHTS.fullmatch(path) is not None
    renewed = first == LAST_CHECKPOINT and any(name.startswith(f"{LAST_CHECKPOINT}/") for name in pushed)
    return first in PARTS or renewed
