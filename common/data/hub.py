"""Reading from the Hugging Face Hub: what a repository holds, and its files, every byte verified.

Names that the Hub lists are checked before they become paths. Nothing here runs code of a
repository.
"""

import hashlib
import json
import os
import re
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from common.data.aliases import ALIASES
from common.data.transfer import (
    BrokenOff,
    OfflineError,
    WrongBytes,
    first_line,
    get,
    is_offline,
    look_up,
)
from common.utils.errors import DataError, DownloadError, InputError
from common.utils.paths import safe_join, validate_name
from common.utils.text import nearest

if TYPE_CHECKING:
    from huggingface_hub.utils import httpx

_WORKERS = 4
_CHUNK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it; ``sha256`` for large files, the git blob id for the others."""

    size: int
    blob_id: str
    sha256: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Args:
        kind: ``"datasets"`` or ``"models"``.
        repository_id: ``namespace/name``, as the Hub calls it.
        revision: The commit, 40 hex digits.
        files: Every file by name; hidden ones (``.gitattributes``) are left out.
    """

    kind: str
    repository_id: str
    revision: str
    files: dict[str, RemoteFile]


def endpoint() -> str:
    """The Hub's address: ``$HF_ENDPOINT``, or the public one."""
    from huggingface_hub import constants

    address = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if not re.match(r"https?://\S+$", address):
        raise InputError(
            f"HF_ENDPOINT is {address!a}; expected an address such as http://host:port"
        )
    return address


def page(kind: str, repository_id: str) -> str:
    """The address of a repository's page."""
    return f"{endpoint()}/{'datasets/' if kind == 'datasets' else ''}{repository_id}"


def describe(kind: str, repository_id: str, revision: str) -> Repository:
    """Ask the Hub what a repository holds at a branch, tag or commit.

    Raises:
        OfflineError: without a network.
        DataError: if there is no such repository or revision, or it is not open to this user.
        DownloadError: if the Hub does not answer sensibly.
        UnsafeNameError: if the Hub lists a name that would leave the folder.
    """
    if is_offline():
        raise OfflineError("the environment forbids requests (HF_HUB_OFFLINE)")
    look_up(endpoint())
    api = f"{endpoint()}/api/{kind}"
    asked = urllib.parse.quote(revision, safe="")
    with _explained(kind, repository_id, revision):
        try:
            info = get(f"{api}/{repository_id}/revision/{asked}", _read_json)
            commit, name = info["sha"], validate_name(info["id"], "repository")
            if not re.fullmatch("[0-9a-f]{40}", commit):
                raise ValueError(f"{commit!a} is no commit")
            files: dict[str, RemoteFile] = {}
            query = "recursive=true"
            while query:
                entries, query = get(f"{api}/{name}/tree/{commit}?{query}", _read_page)
                files |= {entry["path"]: _remote_file(entry) for entry in entries if _wanted(entry)}
        except (KeyError, TypeError, ValueError) as error:
            raise DownloadError(f"{api} does not answer like a Hub: {error!r}") from None
    for path in files:
        for part in path.split("/"):
            validate_name(part, f"file {path[:100]!a} of {name}:")
    return Repository(kind, name, commit, files)


def fetch(repository: Repository, names: Iterable[str], folder: Path) -> None:
    """Download files of a repository into ``folder`` and verify them.

    A bar shows progress when standard error is a terminal.

    Raises:
        DataError: if the repository is gated.
        DownloadError: naming the URL, the reason and the attempts.
    """
    names = list(names)
    total = sum(repository.files[name].size for name in names)
    stop = threading.Event()
    title = repository.repository_id
    bar = tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=None, leave=False)
    with bar, ThreadPoolExecutor(_WORKERS) as pool:
        jobs = [
            pool.submit(
                _fetch_file, repository, name, safe_join(folder, *name.split("/")), bar, stop
            )
            for name in names
        ]
        try:
            for job in as_completed(jobs):
                job.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _fetch_file(
    repository: Repository, name: str, path: Path, bar: "tqdm[Any]", stop: threading.Event
) -> None:
    home = page(repository.kind, repository.repository_id)
    url = f"{home}/resolve/{repository.revision}/{urllib.parse.quote(name)}"
    expected = repository.files[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")

    def restart() -> None:
        bar.update(-path.stat().st_size)
        path.write_bytes(b"")

    def receive(response: "httpx.Response") -> None:
        if response.status_code != 206:  # not the rest that was asked for, but the whole
            restart()
        with open(path, "ab") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
                bar.update(len(chunk))
                if stop.is_set() or file.tell() > expected.size:
                    break
        if (size := path.stat().st_size) < expected.size:
            raise BrokenOff(f"{size:,} of {expected.size:,} bytes arrived")
        if (reason := _difference(path, expected)) is not None:
            restart()
            raise WrongBytes(reason)

    with _explained(repository.kind, repository.repository_id, repository.revision):
        get(url, receive, received=lambda: path.stat().st_size, stop=stop)


def _difference(path: Path, expected: RemoteFile) -> str | None:
    """Why ``path`` is not the promised file, or ``None``."""
    size = path.stat().st_size
    if size != expected.size:
        return f"more bytes arrived than the expected {expected.size:,}"
    digest = hashlib.sha256() if expected.sha256 else hashlib.sha1(b"blob %d\0" % size)
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    kind, wanted = (
        ("SHA-256", expected.sha256) if expected.sha256 else ("blob id", expected.blob_id)
    )
    if digest.hexdigest() == wanted:
        return None
    return f"wrong bytes arrived: {kind} {digest.hexdigest()[:12]}, expected {str(wanted)[:12]}"


@contextmanager
def _explained(kind: str, repository_id: str, revision: str) -> Iterator[None]:
    """Turn the Hub's refusals into errors that say what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    what = "data set" if kind == "datasets" else "model"
    try:
        yield
    except GatedRepoError:
        raise DataError(
            f"{what} {repository_id} is gated: accept its terms at {page(kind, repository_id)} "
            "and log in with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise DataError(
            f"{what} {repository_id} has no revision {revision!a}; expected a branch, a tag or the "
            "40 digits of a commit"
        ) from None
    except RepositoryNotFoundError:
        near = nearest(repository_id, ALIASES[kind])
        hint = f"did you mean '{near}'?" if near else "expected 'namespace/name'"
        raise DataError(
            f"the Hub has no {what} {repository_id!a}, or it is private; {hint}"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        reason = error.server_message or first_line(error)
        raise DownloadError(f"{error.response.url}: HTTP {status}: {reason}") from None


def _read_json(response: "httpx.Response") -> Any:
    return json.loads(response.read())


def _read_page(response: "httpx.Response") -> tuple[list[dict[str, Any]], str]:
    """One page of a listing, and the query of the next (empty: there is none)."""
    following = response.links.get("next", {}).get("url", "")
    return json.loads(response.read()), urllib.parse.urlsplit(following).query


def _wanted(entry: dict[str, Any]) -> bool:
    """Whether an entry is a file that is not hidden; ``..`` is not hidden but refused later."""
    parts = entry["path"].split("/")
    hidden = any(part.startswith(".") and part not in (".", "..") for part in parts)
    return entry["type"] == "file" and not hidden


def _remote_file(entry: dict[str, Any]) -> RemoteFile:
    lfs = entry.get("lfs") or {}
    return RemoteFile(int(lfs.get("size", entry["size"])), entry["oid"], lfs.get("oid"))
