"""Where a session's directory lies, and its copy: a folder, or a bucket that speaks S3.

A session is always made on this machine. With ``output_dir=s3://bucket/prefix`` (or another address that
fsspec knows) what has changed is copied there after every fold and at the end. A copy that fails is one
line, and the session stays whole here; resuming it copies again. The command fails only with the last.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from loguru import logger

from common.config import RunContext
from common.utils.errors import ConfigError, FaultError
from common.utils.files import atomic_write_text
from common.utils.paths import get_outputs_dir
from common.utils.runs import slug
from projects.product_matching.core.config import Config

COPIED = "copied.json"
_ADDRESS = re.compile(r"(s3|memory)://[^/\s][^\s]*")  # with a bucket
_SKIPPED = ("owner.lock", COPIED)
_PASSING = (".tmp-", "titles_")  # what names begin with that do not stay


@dataclass(frozen=True)
class Place:
    """Where a session goes.

    Attributes:
        directory: On this machine.
        store: Copies what has changed; does nothing without a remote address.
        finish: The same for a session that has ended; raises ``FaultError`` if the copy fails.
    """

    directory: Path
    store: Callable[[Path], None]
    finish: Callable[[Path], None]


def open_place(config: Config, context: RunContext) -> Place:
    """The place that ``output_dir`` names.

    Raises:
        ConfigError: for an address that cannot be written to by anything that is installed.
    """
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    words = [*context.overrides, "dry-run"] if context.dry_run else context.overrides
    words = [word for word in words if not word.startswith("output_dir=")]
    name = "_".join(filter(None, [stamp, slug(words)]))
    own = get_outputs_dir() / "product_matching"
    address = config.output_dir
    if address is None:
        return Place(own / name, _nothing, _nothing)
    if "://" not in address:
        folder = Path(address).expanduser()
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"output_dir is '{address}', which is no folder; name another")
        return Place(folder / name, _nothing, _nothing)
    if _ADDRESS.fullmatch(address) is None:
        raise ConfigError(
            f"output_dir is '{_without_secrets(address)}'; expected a folder, or s3://bucket/prefix"
        )
    if "@" in address:
        raise ConfigError(
            "output_dir holds an '@'; give no name and no password in the address, but AWS_* variables"
        )
    copy = RemoteCopy(address)
    return Place(own / name, copy.store, copy.finish)


class RemoteCopy:
    """A copy of sessions at a remote address.

    Args:
        address: ``s3://bucket/prefix``; a session goes to a folder of its name below.

    Raises:
        ConfigError: if what speaks its protocol is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self._protocol = address.partition("://")[0]
        try:
            import fsspec

            self._kind = fsspec.get_filesystem_class(self._protocol)
        except ImportError:
            raise ConfigError(
                f"output_dir is {address}, which needs s3fs: uv pip install -e '.[s3]'"
            ) from None

    def store(self, home: Path) -> None:
        """Copy what has changed since the last copy; a failure is said in one line."""
        try:
            self.finish(home)
        except FaultError as error:
            logger.error(str(error))

    def finish(self, home: Path) -> None:
        """Copy what has changed since the last copy.

        Raises:
            FaultError: if the remote place cannot be written.
        """
        try:
            count = self.copy(home)
        except FaultError as error:
            raise FaultError(
                f"{error}; the session in {home} is whole: resume it to copy it again "
                f"(--resume {shlex.quote(str(home))})"
            ) from None
        logger.info(f"copied {count:,} files to {self.address}/{home.name}")

    def copy(self, home: Path) -> int:
        """Copy what has changed since the last copy; returns how many files.

        Raises:
            FaultError: if the remote place cannot be written.
        """
        known = self._known(home)
        count = 0
        try:
            system = self._open()
            for file in _files(home):
                name = file.relative_to(home).as_posix()
                digest = _digest(file)
                if known.get(name) == digest:
                    continue
                system.put_file(str(file), f"{self.address}/{home.name}/{name}")
                known[name] = digest
                count += 1
        except Exception as error:  # botocore, aiohttp and OSError, each with its own
            raise FaultError(
                f"cannot copy to {self.address}: {_reason(error)} (AWS_* variables say who and where)"
            ) from None
        finally:
            if count:
                state = {"address": self.address, "files": known}
                atomic_write_text(home / COPIED, json.dumps(state, indent=1) + "\n")
        return count

    def _open(self) -> Any:
        options: dict[str, Any] = {"skip_instance_cache": True}
        if self._protocol == "s3" and (endpoint := os.environ.get("AWS_ENDPOINT_URL")):
            options["endpoint_url"] = endpoint
        return self._kind(**options)

    def _known(self, home: Path) -> dict[str, str]:
        """What is there already, by this address's last copy."""
        try:
            state: Mapping[str, Any] = json.loads((home / COPIED).read_text(encoding="utf-8"))
            return dict(state["files"]) if state["address"] == self.address else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def _nothing(home: Path) -> None:
    """A session that is nowhere else is not copied."""


def _files(home: Path) -> list[Path]:
    found = (path for path in home.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(p for p in found if p.name not in _SKIPPED and not p.name.startswith(_PASSING))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    """The error's words on one line, without what may be a secret."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name, value in os.environ.items():
        if value and len(value) > 3 and ("SECRET" in name or "TOKEN" in name or "KEY" in name):
            text = text.replace(value, "***")
    return text[:300]


def _without_secrets(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//***@", address)
