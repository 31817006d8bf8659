"""Content of the test Hub: repositories with atomic commits, and the rules for the metadata of cards."""

from __future__ import annotations

import hashlib
import re
import threading
from dataclasses import dataclass, field
from typing import Any

import yaml

LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0", "openrail", "gemma", "other"}
REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class File:
    """A file of a commit: hash of its content, whether it is in the large file storage, and its size."""

    oid: str
    large: bool
    size: int


@dataclass
class Repo:
    """One repository. `branches` and `tags` name commits; a commit is a complete set of files."""

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)


class Conflict(Exception):
    """A commit whose parent is no longer the head of its branch."""


class Store:
    """Repositories by `(type, id)`, and their contents. Every change is made under one lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}

    def create(self, kind: str, repo_id: str, private: bool) -> bool:
        """Creates a repository; False if it exists."""
        with self.lock:
            if (kind, repo_id) in self.repos:
                return False
            first = hashlib.sha1(f"{kind}/{repo_id}".encode()).hexdigest()
            self.repos[kind, repo_id] = Repo(private, branches={"main": first}, commits={first: {}})
            return True

    def resolve(self, repo: Repo, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit hash; None if there is none."""
        found = repo.branches.get(revision) or repo.tags.get(revision)
        return found or (revision if revision in repo.commits else None)

    def put(self, content: bytes, large: bool) -> File:
        """Stores content by its hash, without a commit."""
        if large:
            oid = hashlib.sha256(content).hexdigest()
            self.large[oid] = content
        else:
            oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self.blobs[oid] = content
        return File(oid, large, len(content))

    def content(self, file: File) -> bytes:
        return self.large[file.oid] if file.large else self.blobs[file.oid]

    def commit(
        self, repo: Repo, branch: str, added: dict[str, File], deleted: list[str], parent: str | None, message: str
    ) -> str:
        """Moves the branch to a new commit in one step."""
        with self.lock:
            head = repo.branches[branch]
            if parent is not None and parent != head:
                raise Conflict
            files = {
                path: file
                for path, file in repo.commits[head].items()
                if not any(path == gone or path.startswith(f"{gone.rstrip('/')}/") for gone in deleted)
            }
            files |= added
            content = f"{head}{sorted((path, file.oid) for path, file in files.items())}{len(repo.commits)}"
            name = hashlib.sha1(content.encode()).hexdigest()
            repo.commits[name] = files
            repo.branches[branch] = name
            repo.messages.append(message)
            return name

    def files(self, repo_id: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """The files of a revision, for assertions."""
        repo = self.repos[kind, repo_id]
        commit = self.resolve(repo, revision)
        assert commit is not None
        return {path: self.content(file) for path, file in repo.commits[commit].items()}


def card_complaints(content: str, kind: str) -> list[str]:
    """Errors in the metadata of a card, by the rules that the Hub documents for model and dataset cards."""
    head = re.match(r"\A---\r?\n(.*?)\r?\n---\s*(\r?\n|\Z)", content, flags=re.DOTALL)
    if head is None:
        return []
    try:
        data = yaml.safe_load(head.group(1))
    except yaml.YAMLError as error:
        return [f"YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata are not a mapping"]
    wrong = []
    texts = ("library_name", "pipeline_tag", "license_name", "license_link", "pretty_name")
    wrong += [f'"{key}" must be a string' for key in texts if key in data and not isinstance(data[key], str)]
    if "license" in data and data["license"] not in LICENSES:
        wrong.append(f'"license" must be one of {sorted(LICENSES)}')
    for key in ("tags", "metrics", "language"):
        values = data.get(key, [])
        # A single language may be a string.
        values = [values] if key == "language" and isinstance(values, str) else values
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            wrong.append(f'"{key}" must be a list of strings')
    for key in ("datasets", "base_model"):
        values = data.get(key, [])
        for value in [values] if isinstance(values, str) else values:
            if not isinstance(value, str) or REPO_ID.fullmatch(value) is None:
                wrong.append(f'"{key}" with value {value!r} is not valid; use a repository id')
    if kind == "model":
        for number, model in enumerate(data.get("model-index", [])):
            wrong += [f'"model-index[{number}]{text}' for text in _index_complaints(model)]
    elif "configs" in data and not all({"config_name", "data_files"} <= set(config) for config in data["configs"]):
        wrong.append('"configs" need a config_name and data_files')
    return wrong


def _index_complaints(model: Any) -> list[str]:
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        return ['.name" is required']
    wrong = []
    for number, result in enumerate(model.get("results") or [{}]):
        where = f".results[{number}]"
        if not isinstance(result.get("task", {}).get("type"), str):
            wrong.append(f'{where}.task.type" is required')
        for key in ("type", "name"):
            if not isinstance(result.get("dataset", {}).get(key), str):
                wrong.append(f'{where}.dataset.{key}" is required')
        for metric in result.get("metrics") or [{}]:
            if not isinstance(metric.get("type"), str) or "value" not in metric:
                wrong.append(f'{where}.metrics" need a type and a value')
    return wrong
