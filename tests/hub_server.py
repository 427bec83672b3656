"""A fake Hub on the loopback address that answers ``huggingface_hub`` as the real one does, including its faults.

It serves small files directly. For large ones (``LFS``; here chosen by suffix) it redirects to another host name and
supports ranges. It records every request, for tests that check what leaves the machine.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".parquet", ".bin", ".zip")
TOKEN = "hf_good"


@dataclass
class Repo:
    """A repository. ``revisions`` maps revision -> commit, ``commits`` maps commit -> files."""

    kind: str
    name: str
    gated: bool = False
    card: dict[str, Any] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)

    def commit(self, files: Mapping[str, bytes], revision: str = "main") -> str:
        """Point a revision at a new commit with these files, and return the commit."""
        digest = hashlib.sha1(repr((self.name, sorted(files.items()))).encode()).hexdigest()
        self.commits[digest] = dict(files)
        self.revisions[revision] = digest
        return digest


@dataclass(frozen=True)
class Asked:
    """One recorded request."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class HubServer:
    """Repositories served at ``url``. The fault counters go down by one with each fault.

    Attributes:
        asked: all requests so far.
        too_many: number of API requests about repositories still to be answered with 429.
        crowd: number of downloads of large files still to be answered with 429.
        breaks: number of downloads of large files still to be cut off halfway.
        pause: seconds to wait after every 4 KiB of a large file.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.too_many = 0
        self.crowd = 0
        self.breaks = 0
        self.pause = 0.0
        self.sent = 0
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.store = f"http://localhost:{self._server.server_address[1]}"  # another host name, as at the real Hub

    def add(self, kind: str, name: str, files: Mapping[str, bytes] | Path, revision: str = "main", **about: Any) -> str:
        """Add a repository, or a new commit at a revision of an existing one, and return the commit."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in files.rglob("*") if p.is_file()}
        repo = self.repos.setdefault((kind, name), Repo(kind, name))
        for key, value in about.items():
            setattr(repo, key, value)
        for data in files.values():
            self.blobs[hashlib.sha256(data).hexdigest()] = data
        return repo.commit(files, revision)

    def paths(self) -> list[str]:
        """Return the paths asked for so far."""
        return [one.path for one in self.asked]

    @contextmanager
    def running(self) -> Iterator[HubServer]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(5)


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.server_hub.asked.append(Asked(self.command, path, parts.query, headers, body))
        if path.startswith("/cdn/"):
            self._blob(path.removeprefix("/cdn/"))
        elif found := re.fullmatch(
            r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree|discussions)(?:/(.+))?)?", path
        ):
            self._api(*found.groups(), parse_qs(parts.query))
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/(refs/[^/]+/[^/]+|[^/]+)/(.+)", path):
            self._file("dataset" if found[1] else "model", *found.groups()[1:])
        else:
            self._send(404, {"error": "not found"})

    def _repo(self, kind: str, name: str) -> Repo | None:
        repo = self.server_hub.repos.get((kind, name))
        if repo is None:
            # Without a token, the Hub does not reveal whether the repository exists.
            known = self.headers.get("authorization") is not None
            headers = (
                {"X-Error-Code": "RepoNotFound"} if known else {"X-Error-Message": "Invalid username or password."}
            )
            self._send(404 if known else 401, {"error": "Repository not found"}, headers)
        return repo

    def _commit(self, repo: Repo, revision: str | None) -> str | None:
        commit = repo.revisions.get(revision or "main", revision if revision in repo.commits else None)
        if commit is None:
            self._send(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        return commit

    def _api(self, kind: str, name: str, what: str | None, rest: str | None, query: dict[str, list[str]]) -> None:
        if (repo := self._repo(kind, name)) is None:
            return
        if what == "discussions":
            wanted = query.get("author")
            found = [one for one in repo.requests if wanted is None or one["author"]["name"] in wanted]
            page = int(query.get("p", ["0"])[0])
            self._send(200, {"discussions": found if page == 0 else [], "count": len(found), "start": 0})
            return
        if self.server_hub.too_many > 0:
            self.server_hub.too_many -= 1
            self._send(429, {"error": "too many requests"})
            return
        if (commit := self._commit(repo, rest)) is None:
            return
        files = repo.commits[commit]
        if what == "tree":
            self._send(200, [{"type": "file", "path": path, **_entry(path, data)} for path, data in files.items()])
            return
        siblings = [{"rfilename": path} for path in files]
        if "blobs" in query:
            siblings = [{"rfilename": p, "size": len(d), "blobId": _sha1(d)} for p, d in files.items()]
        about = {"id": name, "_id": name, "sha": commit, "siblings": siblings, "gated": "auto" if repo.gated else False}
        self._send(200, about | {"private": False, "tags": [], "cardData": repo.card})

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        hub = self.server_hub
        if (repo := self._repo(kind, name)) is None or (commit := self._commit(repo, revision)) is None:
            return
        if repo.gated and self.headers.get("authorization") != f"Bearer {TOKEN}":
            known = self.headers.get("authorization") is not None
            self._send(403 if known else 401, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
            return
        data = repo.commits[commit].get(path)
        if data is None:
            self._send(404, {"error": "no entry"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        if path.endswith(LARGE):
            sha = hashlib.sha256(data).hexdigest()
            linked = {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": commit}
            self._send(302, b"", {"ETag": f'"{sha}"', "Location": f"{hub.store}/cdn/{sha}"} | linked)
            return
        self._send(200, data, {"X-Repo-Commit": commit, "ETag": f'"{_sha1(data)}"'})

    def _blob(self, sha: str) -> None:
        hub = self.server_hub
        data = hub.blobs[sha]
        if hub.crowd > 0 and self.command == "GET":
            hub.crowd -= 1
            self._send(429, {"error": "too many requests"})
            return
        begin = 0
        if (asked := self.headers.get("range")) is not None and (found := re.fullmatch(r"bytes=(\d+)-", asked)):
            begin = int(found[1])
        headers = {"ETag": f'"{sha}"', "Accept-Ranges": "bytes"}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self.send_response(206 if begin else 200)
        for key, value in (headers | {"Content-Length": str(len(data) - begin)}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(data)
        if hub.breaks > 0:
            hub.breaks -= 1
            end, self.close_connection = begin + max(1, (len(data) - begin) // 2), True
        try:
            for start in range(begin, end, 4096):
                piece = data[start : min(start + 4096, end)]
                self.wfile.write(piece)
                hub.sent += len(piece)
                if hub.pause:
                    time.sleep(hub.pause)
        except OSError:  # the client was killed
            self.close_connection = True

    def _send(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in ((headers or {}) | {"Content-Length": str(len(data))}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def converted_request(number: int) -> dict[str, Any]:
    """Return a pull request of the Hub's safetensors converter, as a repository's list of discussions shows it."""
    return {
        "num": number,
        "title": "Adding `safetensors` variant of this model",
        "status": "open",
        "author": {"name": "SFconvertbot"},
        "isPullRequest": True,
        "createdAt": "2024-01-01T00:00:00.000Z",
        "repo": {"name": "x", "type": "model"},
    }


def _entry(path: str, data: bytes) -> dict[str, Any]:
    sha = hashlib.sha256(data).hexdigest()
    lfs = {"lfs": {"oid": sha, "size": len(data), "pointerSize": 134}} if path.endswith(LARGE) else {}
    return {"size": len(data), "oid": _sha1(data), **lfs}


def _sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
