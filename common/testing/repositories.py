"""What the loopback Hub serves: repositories as a tree of commits, with the Hub's own identities.

A file's identity is its git blob id, or for large binary formats (Git LFS) the SHA-256 of its
bytes, exactly as the Hub reports them; clients verify against these.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

_LFS_SUFFIXES = (".parquet", ".arrow", ".safetensors", ".bin", ".npz", ".zip", ".gz", ".tar")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Blob:
    """The content of one file: bytes in memory, or a file on disk that is read when needed."""

    content: bytes | Path

    def open(self) -> IO[bytes]:
        """A readable, seekable binary file."""
        return (
            io.BytesIO(self.content)
            if isinstance(self.content, bytes)
            else open(self.content, "rb")
        )

    def in_lfs(self, name: str) -> bool:
        """Whether the Hub keeps a file of this name in Git LFS."""
        return name.endswith(_LFS_SUFFIXES)

    @cached_property
    def size(self) -> int:
        """Bytes."""
        content = self.content
        return len(content) if isinstance(content, bytes) else content.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """The Git LFS object id."""
        return self._digest(hashlib.sha256())

    @cached_property
    def git_id(self) -> str:
        """The git blob id: SHA-1 of a header and the content."""
        return self._digest(hashlib.sha1(b"blob %d\0" % self.size))

    def _digest(self, digest: Any) -> str:
        with self.open() as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return str(digest.hexdigest())


@dataclass(frozen=True)
class Commit:
    """One revision of a repository.

    Args:
        files: Blobs by name.
        parent: The sha of the commit before, empty for the first.
    """

    files: Mapping[str, Blob]
    parent: str = ""

    @cached_property
    def sha(self) -> str:
        """40 hex digits made of the content and the history."""
        listing = "".join(f"{name}:{blob.git_id}\n" for name, blob in sorted(self.files.items()))
        return hashlib.sha1(f"{self.parent}\n{listing}".encode()).hexdigest()

    def info(self, repository_id: str, gated: bool) -> dict[str, Any]:
        """What ``/api/<kind>/<id>`` answers."""
        return {
            "_id": "0" * 24,
            "id": repository_id,
            "author": repository_id.partition("/")[0],
            "sha": self.sha,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "private": False,
            "gated": "auto" if gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": name} for name in self.files],
        }

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]] | None:
        """The entries below ``folder``, or ``None`` if there is no such folder."""
        prefix = f"{folder}/" if folder else ""
        inside = {name: blob for name, blob in self.files.items() if name.startswith(prefix)}
        if folder and not inside:
            return None
        folders: dict[str, dict[str, Any]] = {}
        entries = []
        for name, blob in inside.items():
            parents = name.removeprefix(prefix).split("/")[:-1]
            for depth in range(1, len(parents) + 1 if recursive else min(len(parents), 1) + 1):
                path = prefix + "/".join(parents[:depth])
                folders[path] = _folder_entry(path)
            if recursive or not parents:
                entries.append(_file_entry(name, blob))
        return [*folders.values(), *entries]

    def paths(self, names: list[str]) -> list[dict[str, Any]]:
        """The entries of files and folders by name; what does not exist is left out."""
        entries = []
        for name in names:
            if name in self.files:
                entries.append(_file_entry(name, self.files[name]))
            elif any(other.startswith(f"{name}/") for other in self.files):
                entries.append(_folder_entry(name))
        return entries


@dataclass
class HubRepository:
    """Commits and the branches that point at them.

    Args:
        commits: Every commit by sha.
        branches: The head's sha by branch name.
        token: Who may have the files; ``None`` is everybody.
    """

    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None

    def commit(self, files: Mapping[str, bytes | Path | None], branch: str = "main") -> str:
        """Commit changes on top of ``branch``, move the branch, and return the new sha."""
        head = self.branches.get(branch)
        content = dict(self.commits[head].files) if head else {}
        for name, data in files.items():
            if data is None:
                content.pop(name, None)
            else:
                content[name] = Blob(data)
        commit = Commit(content, head or "")
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit.sha

    def find(self, revision: str) -> Commit | None:
        """The commit of a branch or a sha, or ``None``."""
        return self.commits.get(self.branches.get(revision, revision))

    def refs(self) -> dict[str, Any]:
        """What ``/api/<kind>/<id>/refs`` answers."""
        heads = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
            for name, sha in self.branches.items()
        ]
        return {"branches": heads, "tags": [], "converts": []}


def read_repositories(root: Path) -> dict[str, HubRepository]:
    """Every ``<kind>/<namespace>/<name>`` folder below ``root`` as one commit on ``main``."""
    repositories = {}
    for kind in ("datasets", "models"):
        for folder in sorted((root / kind).glob("*/*")):
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            repository = HubRepository()
            repository.commit({path.relative_to(folder).as_posix(): path for path in paths})
            repositories[f"{kind}/{folder.parent.name}/{folder.name}"] = repository
    return repositories


def _file_entry(name: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": blob.git_id, "size": blob.size, "path": name}
    if blob.in_lfs(name):
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
    return entry


def _folder_entry(path: str) -> dict[str, Any]:
    return {
        "type": "directory",
        "oid": hashlib.sha1(path.encode()).hexdigest(),
        "size": 0,
        "path": path,
    }
