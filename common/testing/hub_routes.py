"""The loopback Hub's answers: the routes that current clients call, and the faults on the way."""

import json
import socket
import struct
import sys
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from common.testing.repositories import Blob, Commit, HubRepository

if TYPE_CHECKING:
    from common.testing.hub import LoopbackHub

_CHUNK = 1 << 20


@dataclass
class Fault:
    """What goes wrong with the requests whose path matches.

    Args:
        path: A shell pattern of the request's path, e.g. ``"*/resolve/*/train.csv"``.
        method: The HTTP method it applies to.
        times: How often it strikes; ``None`` means always.
        status: Answer with this status and no body.
        headers: Headers that go with ``status``.
        truncate: Promise the whole body, send this many bytes, then close.
        reset: Reset the connection (TCP RST) instead of answering.
        delay: Seconds to wait before anything else.
        corrupt: Send the right number of bytes, one of them wrong.
    """

    path: str = "*"
    method: str = "GET"
    times: int | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    truncate: int | None = None
    reset: bool = False
    delay: float = 0.0
    corrupt: bool = False


@dataclass(frozen=True)
class Request:
    """One answered request; ``status`` is 0 if the connection was reset."""

    method: str
    path: str
    status: int
    headers: Mapping[str, str]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection.

    Routes: ``/api/<kind>/<id>[/revision|tree|paths-info|refs/...]`` and
    ``[/datasets]/<id>/resolve/<revision>/<file>``.
    """

    hub: "LoopbackHub"
    protocol_version = "HTTP/1.1"
    fault: Fault | None = None

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are recorded in ``LoopbackHub.requests`` instead."""

    def do_GET(self) -> None:
        """Meet a fault, or find the route; HEAD and POST come the same way."""
        url = urllib.parse.urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        self.fault = self.hub.strike(self.command, urllib.parse.unquote(url.path))
        if self.fault is not None:
            time.sleep(self.fault.delay)
            if self.fault.reset:
                return self._reset()
            if self.fault.status is not None:
                return self._answer(self.fault.status, headers=self.fault.headers)
        # A revision may hold slashes, quoted: split first, then unquote.
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "api":
            parts = parts[1:]
        elif parts[0] != "datasets":
            parts = ["models", *parts]
        return self._route(parts, urllib.parse.parse_qs(url.query), body)

    do_HEAD = do_GET
    do_POST = do_GET

    def _route(self, parts: list[str], query: Mapping[str, list[str]], body: bytes) -> None:
        for depth in (2, 3):  # the old names of moved repositories have no namespace
            name = "/".join(parts[:depth])
            if (target := self.hub.moved(name)) is not None:
                old, new = (text.removeprefix("models/") for text in (name, target))
                return self._answer(307, headers={"Location": self.path.replace(old, new, 1)})
            if name in self.hub.repositories:
                verb, revision, *inner = parts[depth:] + ["revision", "main"][len(parts) - depth :]
                return self._serve(name, verb, revision, "/".join(inner), query, body)
        return self._refuse(401, "RepoNotFound", "Repository not found")

    def _serve(
        self,
        name: str,
        verb: str,
        revision: str,
        inner: str,
        query: Mapping[str, list[str]],
        body: bytes,
    ) -> None:
        repository = self.hub.repositories[name]
        if verb == "refs":
            return self._json(repository.refs())
        commit = repository.find(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if verb == "resolve":
            return self._file(repository, commit, inner)
        if verb == "revision":
            return self._json(commit.info(name.partition("/")[2], repository.token is not None))
        if verb == "tree":
            recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
            entries = commit.tree(inner, recursive)
            if entries is None:
                return self._refuse(404, "EntryNotFound", f"{inner} does not exist")
            return self._json(entries)
        if verb == "paths-info":
            asked = json.loads(body) if body[:1] == b"{" else urllib.parse.parse_qs(body.decode())
            return self._json(commit.paths(asked.get("paths", [])))
        return self._refuse(404, "NotFound", f"no route {verb}")

    def _file(self, repository: HubRepository, commit: Commit, name: str) -> None:
        sent = self.headers.get("Authorization")
        if repository.token is not None and sent != f"Bearer {repository.token}":
            return self._refuse(
                403 if sent else 401, "GatedRepo", "Access to this repository is restricted"
            )
        headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        blob = commit.files.get(name)
        if blob is None:
            return self._refuse(404, "EntryNotFound", "Entry not found", headers)
        etag = f'"{blob.sha256 if blob.in_lfs(name) else blob.git_id}"'
        headers |= {"ETag": etag, "X-Linked-ETag": etag, "X-Linked-Size": str(blob.size)}
        start, end = 0, blob.size
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes="):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1 if last else blob.size, blob.size)
            if start >= blob.size:
                return self._answer(416, headers={"Content-Range": f"bytes */{blob.size}"})
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
        return self._answer(206 if wanted else 200, blob, headers, start, end)

    def _json(self, value: Any) -> None:
        self._answer(200, Blob(json.dumps(value).encode()), {"Content-Type": "application/json"})

    def _refuse(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        shown = {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}
        self._answer(status, Blob(json.dumps({"error": message}).encode()), shown)

    def _answer(
        self,
        status: int,
        blob: Blob | None = None,
        headers: Mapping[str, str] | None = None,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        blob = blob or Blob(b"")
        end = blob.size if end is None else end
        self._record(status)
        self.send_response(status)
        for key, value in {"Content-Length": str(end - start), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = self.fault.truncate if self.fault is not None else None
        with blob.open() as file:
            file.seek(start)
            left = end - start if cut is None else min(cut, end - start)
            while left > 0 and (chunk := file.read(min(_CHUNK, left))):
                if self.fault is not None and self.fault.corrupt:
                    chunk = bytes([chunk[0] ^ 0xFF]) + chunk[1:]
                self.wfile.write(chunk)
                left -= len(chunk)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _reset(self) -> None:
        self._record(0)
        self.close_connection = True
        # An l_linger of zero seconds makes close() send RST.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _record(self, status: int) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.hub.requests.append(Request(self.command, path, status, dict(self.headers)))
