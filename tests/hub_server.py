"""A small Hugging Face hub on this machine: the part of its interface that huggingface_hub and datasets use."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_ofatest"
LARGE = (".safetensors", ".parquet")  # that go through Git LFS

Files = dict[str, bytes]


@dataclass
class Repository:
    """All commits, by their hash, the newest last."""

    private: bool = False
    commits: dict[str, Files] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return next(reversed(self.commits))

    def commit(self, files: Files) -> str:
        content = repr((len(self.commits), sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())))
        sha = hashlib.sha1(content.encode()).hexdigest()
        self.commits[sha] = files
        return sha


@dataclass
class Hub:
    """The hub's content. ``requests`` are all so far, ``METHOD /path``; ``before_commit`` is called once, before a commit."""

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)  # by "models" or "datasets", and name
    uploads: Files = field(default_factory=dict)  # by SHA-256
    requests: list[str] = field(default_factory=list)
    before_commit: Any = None

    def put(self, kind: str, name: str, files: Files, *, private: bool = False) -> str:
        """A commit with these files; its hash."""
        return self.repositories.setdefault((kind, name), Repository(private)).commit(files)

    def files(self, kind: str, name: str) -> Files:
        repository = self.repositories[kind, name]
        return repository.commits[repository.head]


class RefusedError(Exception):
    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


@contextmanager
def hub_serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        server_hub = hub

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        listener.shutdown()
        listener.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.query = parse_qs(address.query)
        self.server_hub.requests.append(f"{self.command} {path}")
        try:
            self._route([part for part in path.split("/") if part])
        except RefusedError as error:
            self._send(error.status, json.dumps({"error": str(error)}).encode(), {
                "X-Error-Message": str(error), **({"X-Error-Code": error.code} if error.code else {})})  # fmt: skip

    def _send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _route(self, parts: list[str]) -> None:
        match parts:
            case ["api", "repos", "create"]:
                self._create()
            case ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case ["api", ("models" | "datasets") as kind, owner, name, *rest]:
                self._api(kind, f"{owner}/{name}", rest)
            case ["upload", oid]:
                self.server_hub.uploads[oid] = self.body
                assert hashlib.sha256(self.body).hexdigest() == oid
                self._send(200)
            case ["datasets", owner, name, *rest]:
                self._files("datasets", f"{owner}/{name}", rest)
            case [owner, name, *rest]:
                self._files("models", f"{owner}/{name}", rest)
            case _:
                raise RefusedError(404, "not found")

    def _authorized(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {TOKEN}"

    def _must_write(self) -> None:
        if not self._authorized():
            raise RefusedError(401, "Invalid username or password.")

    def _repository(self, kind: str, name: str) -> Repository:
        found = self.server_hub.repositories.get((kind, name))
        if found is None or (found.private and not self._authorized()):
            raise RefusedError(404, "Repository not found", "RepoNotFound")
        return found

    def _commit(self, repository: Repository, revision: str) -> str:
        if revision == "main":
            return repository.head
        if revision not in repository.commits:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return revision

    def _create(self) -> None:
        self._must_write()
        asked = json.loads(self.body)
        kind, name = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name.startswith("other/"):
            raise RefusedError(403, "You don't have the rights to create a model under the namespace 'other'")
        if (kind, name) in self.server_hub.repositories:
            self._json({"error": "You already created this repo", "url": f"{self.server_hub.url}/{name}"}, 409)
            return
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server_hub.put(kind, name, {".gitattributes": b""}, private=private)
        prefix = "" if kind == "models" else f"{kind}/"
        self._json({"url": f"{self.server_hub.url}/{prefix}{name}", "id": name})

    def _api(self, kind: str, name: str, rest: list[str]) -> None:
        repository = self._repository(kind, name)
        match rest:
            case [] | ["revision", _]:
                sha = self._commit(repository, rest[1] if rest else "main")
                siblings = [{"rfilename": file, "size": len(data)} for file, data in repository.commits[sha].items()]
                self._json({"id": name, "modelId": name, "sha": sha, "private": repository.private, "siblings": siblings,
                            "tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False})  # fmt: skip
            case ["tree", revision, *below]:
                self._tree(repository, self._commit(repository, revision), "/".join(below))
            case ["paths-info", revision]:
                files = repository.commits[self._commit(repository, revision)]
                asked = json.loads(self.body) if self.body[:1] == b"{" else parse_qs(self.body.decode())
                paths = asked["paths"]
                self._json([_entry(path, files[path]) for path in paths if path in files] + [
                    {"type": "directory", "path": path, "oid": "0", "size": 0} for path in paths
                    if path not in files and any(file.startswith(f"{path}/") for file in files)])  # fmt: skip
            case ["preupload", _]:
                self._must_write()
                files = [{"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                          "shouldIgnore": False} for file in json.loads(self.body)["files"]]  # fmt: skip
                self._json({"files": files})
            case ["commit", _]:
                self._must_write()
                self._make_commit(repository, name)
            case _:
                raise RefusedError(404, f"no such call: {rest}")

    def _tree(self, repository: Repository, sha: str, below: str) -> None:
        prefix = f"{below}/" if below else ""
        files = {path: data for path, data in repository.commits[sha].items() if path.startswith(prefix)}
        if below and not files:
            raise RefusedError(404, f"{below} does not exist", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries, folders = [], set()
        for path, data in files.items():
            inner = path.removeprefix(prefix).split("/")
            folders |= {prefix + "/".join(inner[:depth]) for depth in range(1, len(inner) if recursive else min(2, len(inner)))}
            if recursive or len(inner) == 1:
                entries.append(_entry(path, data))
        self._json([{"type": "directory", "path": folder, "oid": "0", "size": 0} for folder in sorted(folders)] + entries)

    def _make_commit(self, repository: Repository, name: str) -> None:
        if call := self.server_hub.before_commit:
            self.server_hub.before_commit = None
            call()
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, repository.head):
            raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repository.commits[repository.head])
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.server_hub.uploads[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        sha = repository.commit(files)
        self._json({"commitUrl": f"{self.server_hub.url}/{name}/commit/{sha}", "commitOid": sha, "hookOutput": ""})

    def _files(self, kind: str, name: str, rest: list[str]) -> None:
        match rest:
            case ["info", "lfs", "objects", "batch"]:
                self._must_write()
                objects = json.loads(self.body)["objects"]
                self._json({"transfer": "basic", "objects": [
                    {"oid": part["oid"], "size": part["size"],
                     "actions": {"upload": {"href": f"{self.server_hub.url}/upload/{part['oid']}", "header": {}}}}
                    for part in objects]})  # fmt: skip
            case ["resolve", revision, *path]:
                repository = self._repository(kind, name)
                sha = self._commit(repository, revision)
                data = repository.commits[sha].get("/".join(path))
                if data is None:
                    raise RefusedError(404, "Entry not found", "EntryNotFound")
                self._resolve(sha, data)
            case _:
                raise RefusedError(404, "not found")

    def _resolve(self, sha: str, data: bytes) -> None:
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        asked = self.headers["Range"]
        if not asked:
            self._send(200, data, headers)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) if last else len(data) - 1, len(data) - 1)
        if start > end:
            self._send(416)
            return
        self._send(206, data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"})


def _entry(path: str, data: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(data).hexdigest()
    lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100} if path.endswith(LARGE) else None
    return {"type": "file", "path": path, "oid": oid, "size": len(data), **({"lfs": lfs} if lfs else {})}


def use_hub(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch, token: str | None = None) -> None:
    """Let this process talk to ``hub`` as it would with HF_ENDPOINT, HF_HOME and HF_TOKEN in its environment from the start."""
    from huggingface_hub import HfFileSystem, constants, file_download

    for name, value in {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_TOKEN": token or ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    for module in (constants, file_download):  # huggingface_hub 0.25 keeps a second one
        monkeypatch.setattr(
            module, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}", raising=False
        )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # huggingface_hub 0.25 has no Xet
    HfFileSystem.clear_instance_cache()


def use_hub_for_datasets(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the library ``datasets``."""
    from datasets import config

    monkeypatch.setattr(config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(config, "HUB_DATASETS_URL", hub.url + "/datasets/{repo_id}/resolve/{revision}/{path}")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setattr(config, "DOWNLOADED_DATASETS_PATH", cache / "datasets" / "downloads")
    monkeypatch.setattr(config, "EXTRACTED_DATASETS_PATH", cache / "datasets" / "downloads" / "extracted")
    monkeypatch.setattr(config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
