"""
A Hub on a real socket: the part of its protocol that the official client uses to create, push and download.

Two faults can be injected: an upload whose connection is lost midway, and an upload that is held until released.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_store import Conflict, File, Repo, Store, card_complaints

# Files for the large file storage; git stores the others.
LARGE = re.compile(r"\.(safetensors|parquet|png|mp4|bin|pt|pth|pkl)$")
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
API_REPO = re.compile(r"/api/(models|datasets|spaces)/([^/]+/[^/]+)(?:/(\w[\w-]*)(?:/(.+))?)?")
LFS_BATCH = re.compile(r"/(datasets/|spaces/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")
RESOLVE = re.compile(r"/(datasets/|spaces/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class HubServer(ThreadingHTTPServer):
    """
    Serves in the background from construction until `close`.

    Attributes:
        tokens: accounts by token.
        roles: role of each token without write access.
        organisations: organisations of each account, with its role in each.
        breaks: number of the next uploads whose connection is lost midway.
        hold_after: number of uploads after which each further one is held, half received, until `let_go` is set; None
            for never.
        held: set when an upload is held.
        uploads: number of complete uploads of each large object.
        requests: all requests, as `METHOD /path`.
    """

    daemon_threads = True
    # Some tests break connections on purpose.
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        # As on the Hub, another host serves large files; the client must not follow redirects to it by itself.
        self.large_files_url = f"http://localhost:{self.server_address[1]}"
        self.store = Store()
        self.tokens: dict[str, str] = {"hf_alice": "alice", "hf_bob": "bob"}
        self.roles: dict[str, str] = {}
        self.organisations: dict[str, dict[str, str]] = {}
        self.reset_faults()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def reset_faults(self) -> None:
        self.breaks = 0
        self.begun = 0
        self.hold_after: int | None = None
        self.held, self.let_go = threading.Event(), threading.Event()
        self.uploads: Counter[str] = Counter()
        self.requests: list[str] = []

    def reset(self) -> None:
        """Restores the initial state."""
        self.store = Store()
        self.roles, self.organisations = {}, {}
        self.reset_faults()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silent: tests kill clients and break connections on purpose."""


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = ""):
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.route, self.query = unquote(parts.path), parse_qs(parts.query)
        # The raw path distinguishes `%2F` in the name of a branch from the slashes between the parts.
        self.raw_route = parts.path
        self.server.requests.append(f"{self.command} {self.route}")
        try:
            if self.command == "PUT":
                self._upload()
            else:
                self._answer(self._body())
        except _Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(refused.status, {"error": refused.message or refused.code}, headers)

    # ---- reading and writing HTTP ----

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, status: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _user(self) -> str | None:
        header = self.headers.get("Authorization", "")
        if not header:
            return None
        user = self.server.tokens.get(header.removeprefix("Bearer ").strip())
        if user is None:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        return user

    # ---- access ----

    def _repo(self, kind: str, repo_id: str, write: bool = False) -> Repo:
        user, owner = self._user(), repo_id.partition("/")[0]
        repo = self.server.store.repos.get((kind, repo_id))
        mine = user is not None and self._owns(user, owner)
        if repo is None or (repo.private and not mine):
            raise _Refused(401 if user is None else 404, "RepoNotFound", "Repository not found")
        if repo.gated and not mine:
            raise _Refused(401 if user is None else 403, "GatedRepo", f"Access to {kind} {repo_id} is restricted.")
        if write and not mine:
            raise _Refused(401 if user is None else 403, message=f"You cannot write to {repo_id}")
        return repo

    def _owns(self, user: str, owner: str) -> bool:
        return owner == user or self.server.organisations.get(user, {}).get(owner, "read") != "read"

    def _commit(self, repo: Repo, revision: str) -> str:
        commit = self.server.store.resolve(repo, revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # ---- routes ----

    def _answer(self, body: bytes) -> None:
        if self.route == "/api/whoami-v2":
            user = self._user()
            if user is None:
                raise _Refused(401, message="Invalid username or password.")
            token = self.headers["Authorization"].removeprefix("Bearer ").strip()
            auth = {"accessToken": {"role": self.server.roles.get(token, "write"), "displayName": "test"}}
            own = self.server.organisations.get(user, {})
            organisations = [{"name": name, "roleInOrg": role} for name, role in own.items()]
            self._send(200, {"name": user, "type": "user", "orgs": organisations, "auth": auth})
        elif self.route == "/api/repos/create":
            self._create(json.loads(body))
        elif self.route == "/api/validate-yaml":
            given = json.loads(body)
            wrong = [{"message": text} for text in card_complaints(given["content"], given["repoType"])]
            self._send(400 if wrong else 200, {"errors": wrong, "warnings": []})
        elif found := LFS_BATCH.fullmatch(self.route):
            self._batch(KINDS[(found[1] or "models/")[:-1]], found[2], json.loads(body))
        elif found := API_REPO.fullmatch(self.raw_route):
            self._repo_api(KINDS[found[1]], found[2], found[3] or "", found[4] or "", body)
        elif found := RESOLVE.fullmatch(self.raw_route):
            self._resolve(KINDS[(found[1] or "models/")[:-1]], found[2], unquote(found[3]), unquote(found[4]))
        elif self.route.startswith("/lfs/"):
            self._send_range(self.server.store.large[self.route.removeprefix("/lfs/")])
        elif self.route == "/verify":
            given = json.loads(body)
            stored = self.server.store.large.get(given["oid"], b"")
            self._send(200 if len(stored) == given["size"] else 404)
        else:
            raise _Refused(404, message=f"no such route: {self.command} {self.route}")

    def _create(self, given: dict[str, Any]) -> None:
        user = self._user()
        if user is None:
            raise _Refused(401, message="Invalid username or password.")
        owner = given.get("organization") or user
        if not self._owns(user, owner):
            raise _Refused(403, message=f"You don't have the rights to create a model under the namespace {owner!r}")
        repo_id, kind = f"{owner}/{given['name']}", given.get("type", "model")
        prefix = "" if kind == "model" else f"{kind}s/"
        answer = {"url": f"{self.server.url}/{prefix}{repo_id}", "name": repo_id, "id": repo_id}
        private = given.get("visibility") == "private" or bool(given.get("private"))
        if self.server.store.create(kind, repo_id, private):
            self._send(200, answer)
        else:
            self._send(409, {**answer, "error": "You already created this repository"})

    def _repo_api(self, kind: str, repo_id: str, action: str, rest: str, body: bytes) -> None:
        store = self.server.store
        repo = self._repo(kind, repo_id, write=action in ("preupload", "commit", "branch", "tag"))
        revision, _, below = (unquote(part) for part in rest.partition("/"))
        if action in ("", "revision"):
            commit = self._commit(repo, revision or "main")
            files = [{"rfilename": path} for path in sorted(repo.commits[commit])]
            info = {"id": repo_id, "sha": commit, "private": repo.private, "gated": repo.gated and "manual"}
            self._send(200, {**info, "siblings": files, "tags": [], "downloads": 0, "likes": 0})
        elif action == "tree":
            commit = self._commit(repo, revision)
            self._send(200, self._tree(repo.commits[commit], below, "recursive" in self.query))
        elif action == "refs":
            names = {"branches": ("heads", repo.branches), "tags": ("tags", repo.tags)}
            refs = {
                group: [{"name": n, "ref": f"refs/{ref}/{n}", "targetCommit": c} for n, c in found.items()]
                for group, (ref, found) in names.items()
            }
            self._send(200, {**refs, "converts": []})
        elif action == "branch":
            if revision in repo.branches:
                raise _Refused(409, message="Reference already exists")
            given = json.loads(body or b"{}")
            repo.branches[revision] = self._commit(repo, given.get("startingPoint", "main"))
            self._send(201)
        elif action == "tag":
            repo.tags[json.loads(body)["tag"]] = self._commit(repo, revision)
            self._send(201)
        elif action == "preupload":
            now = repo.commits[self._commit(repo, revision)]
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if LARGE.search(file["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": now[file["path"]].oid if file["path"] in now else None,
                }
                for file in json.loads(body)["files"]
            ]
            self._send(200, {"files": files})
        elif action == "commit":
            self._make_commit(store, repo, repo_id, revision, body)
        else:
            raise _Refused(404, message=f"no such action: {action}")

    def _tree(self, files: dict[str, File], below: str, recursive: bool) -> list[dict[str, Any]]:
        entries = []
        for path, file in sorted(files.items()):
            if below and not path.startswith(f"{below}/"):
                continue
            if not recursive and "/" in path[len(below) + bool(below) :]:
                continue
            entry: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.oid}
            if file.large:
                entry["lfs"] = {"oid": file.oid, "size": file.size, "pointerSize": 130}
            entries.append(entry)
        return entries

    def _make_commit(self, store: Store, repo: Repo, repo_id: str, branch: str, body: bytes) -> None:
        if branch not in repo.branches:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {branch}")
        head: dict[str, Any] = {}
        added, deleted = {}, []
        for line in body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                head = value
            elif key == "file":
                added[value["path"]] = store.put(base64.b64decode(value["content"]), large=False)
            elif key == "lfsFile":
                if value["oid"] not in store.large:
                    raise _Refused(400, message=f"{value['path']}: its content was never uploaded")
                added[value["path"]] = File(value["oid"], True, len(store.large[value["oid"]]))
            else:
                deleted.append(value["path"])
        try:
            name = store.commit(repo, branch, added, deleted, head.get("parentCommit"), head["summary"])
        except Conflict:
            raise _Refused(412, message="The branch has moved since parentCommit") from None
        url = f"{self.server.url}/{repo_id}/commit/{name}"
        self._send(200, {"success": True, "commitOid": name, "commitUrl": url, "hookOutput": ""})

    # ---- large files ----

    def _batch(self, kind: str, repo_id: str, given: dict[str, Any]) -> None:
        self._repo(kind, repo_id, write=True)
        objects = []
        for item in given["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.server.store.large:
                upload = {"href": f"{self.server.url}/lfs/{item['oid']}", "header": {}}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.server.url}/verify"}}
            objects.append(answer)
        self._send(200, {"transfer": "basic", "objects": objects})

    def _upload(self) -> None:
        server, oid = self.server, self.route.removeprefix("/lfs/")
        size = int(self.headers.get("Content-Length") or 0)
        half = self.rfile.read(size // 2)
        if server.breaks > 0:
            server.breaks -= 1
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        with server.store.lock:
            server.begun += 1
            waits = server.hold_after is not None and server.begun > server.hold_after
        if waits:
            server.held.set()
            server.let_go.wait(60)
        content = half + self.rfile.read(size - len(half))
        if len(content) < size:
            return
        if server.store.put(content, large=True).oid != oid:
            raise _Refused(400, message="the content does not have this hash")
        server.uploads[oid] += 1
        self._send(200, headers={"ETag": f'"{oid}"'})

    def _resolve(self, kind: str, repo_id: str, revision: str, path: str) -> None:
        repo = self._repo(kind, repo_id)
        commit = self._commit(repo, revision)
        file = repo.commits[commit].get(path)
        if file is None:
            raise _Refused(404, "EntryNotFound", f"{path} not found")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.oid}"'}
        if file.large:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(file.size)}
            self._send(302, headers={**headers, "Location": f"{self.server.large_files_url}/lfs/{file.oid}"})
        else:
            self._send_range(self.server.store.content(file), headers)

    def _send_range(self, content: bytes, headers: dict[str, str] | None = None) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            self._send(200, content, headers)
            return
        start, end = int(found[1]), int(found[2] or len(content) - 1)
        ranged = {"Content-Range": f"bytes {start}-{end}/{len(content)}", **(headers or {})}
        self._send(206, content[start : end + 1], ranged)
