"""A Hugging Face Hub on loopback, for tests and for machines without a network.

It serves the folders ``<root>/datasets/<namespace>/<name>`` and ``<root>/models/<namespace>/<name>``
over the routes that current clients call, keeps several revisions of a repository, guards gated
ones, records every request and misbehaves on demand. Only the standard library is used.

    python -m common.testing.hub --serve DIR [--port N]
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from common.testing.hub_routes import Fault, Handler, Request, Server
from common.testing.repositories import HubRepository, read_repositories

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


class LoopbackHub:
    """The server; use it as a context manager.

    Args:
        root: A folder with ``datasets/`` and ``models/``; each repository in it is one commit on
            ``main``. ``None`` starts with nothing.
        port: The port on 127.0.0.1; 0 takes a free one.
    """

    def __init__(self, root: Path | None = None, port: int = 0) -> None:
        self.repositories: dict[str, HubRepository] = read_repositories(root) if root else {}
        self.requests: list[Request] = []
        self._moved: dict[str, str] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = Server(("127.0.0.1", port), type("_Handler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        serve = self._server.serve_forever
        threading.Thread(target=serve, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def push(self, repository: str, files: Mapping[str, bytes | None], branch: str = "main") -> str:
        """Commit ``files`` on top of a branch and move the branch there.

        Args:
            repository: ``datasets/<namespace>/<name>`` or ``models/<namespace>/<name>``; it is
                created if it does not exist.
            files: Contents by name; ``None`` removes a file.
            branch: The branch, created from nothing if it does not exist.

        Returns:
            The commit's 40 hex digits.
        """
        with self._lock:
            home = self.repositories.setdefault(repository, HubRepository())
            return home.commit(files, branch)

    def gate(self, repository: str, token: str) -> None:
        """Give the files of a repository only to who sends ``token``."""
        self.repositories[repository].token = token

    def move(self, old: str, new: str) -> None:
        """Answer requests for the repository ``old`` by a redirect to ``new``."""
        self._moved[old] = new

    def fail(self, path: str = "*", **what: Any) -> Fault:
        """Make matching requests fail; the arguments are those of ``Fault``."""
        fault = Fault(path, **what)
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """End all faults."""
        self._faults.clear()

    def downloads(self, name: str = "*") -> list[Request]:
        """The requests for contents of files whose name in the repository matches ``name``."""
        return [
            request
            for request in self.requests
            if request.method == "GET" and fnmatchcase(request.path, f"*/resolve/*/{name}")
        ]

    def environment(self, cache: Path) -> dict[str, str]:
        """The environment of a client process: this Hub, a cache of its own, nothing else outside."""
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HF_", "HUGGING")) and key.lower() not in _PROXIES
        }
        return kept | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def strike(self, method: str, path: str) -> Fault | None:
        """The fault this request meets, counted as used."""
        with self._lock:
            for fault in self._faults:
                if fault.method == method and fnmatchcase(path, fault.path) and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def moved(self, repository: str) -> str | None:
        """Where a repository has gone, or ``None``."""
        return self._moved.get(repository)


def main() -> None:
    """Serve a folder until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m common.testing.hub", description=__doc__)
    parser.add_argument("--serve", type=Path, required=True, metavar="DIR", help="the folder")
    parser.add_argument("--port", type=int, default=0, help="the port (default: a free one)")
    arguments = parser.parse_args()
    if not arguments.serve.is_dir():
        parser.error(f"{arguments.serve} is not a folder")
    try:
        hub = LoopbackHub(arguments.serve, arguments.port)
    except OSError as error:
        parser.error(f"port {arguments.port}: {error.strerror}")
    with hub:
        sys.stdout.write(f"{hub.url}\n")
        for name in sorted(hub.repositories):
            sys.stdout.write(f"  {name}\n")
        sys.stdout.flush()
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored
            signal.signal(number, lambda *_: stop.set())
        stop.wait()


if __name__ == "__main__":
    main()
