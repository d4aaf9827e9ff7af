"""Archives are looked through before anything reads them: no member may reach out or blow up.

A member that is absolute, leads upwards, is a link or a device, or an archive that unpacks to far
more than it is, makes the whole archive refused. Nothing is unpacked here.
"""

import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from common.utils.errors import DataError

_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_HARMLESS_BYTES = 64 << 20
_LARGEST_RATIO = 200  # text packs 3 to 20 times smaller, zeros a thousand times


def is_archive(name: str) -> bool:
    """Whether a file's name says that it holds other files."""
    return name.lower().endswith(_ENDINGS)


def check_archive(path: Path, where: str) -> None:
    """Look at every member's name, kind and size.

    Args:
        path: A zip or tar archive.
        where: What it is, for the message.

    Raises:
        DataError: naming the first member that is not an ordinary file inside the archive, or how
            large it would become.
    """
    packed, unpacked = path.stat().st_size, 0
    try:
        for name, is_plain, size in _members(path):
            shown = ascii(name[:80])
            if _reaches_out(name):
                raise DataError(f"{where} is refused: its member {shown} lies outside of it")
            if not is_plain:
                raise DataError(f"{where} is refused: its member {shown} is a link or a device")
            unpacked += size
            if unpacked > max(_HARMLESS_BYTES, _LARGEST_RATIO * packed):
                raise DataError(
                    f"{where} is refused: {packed:,} bytes unpack to at least {unpacked:,}"
                )
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{where} cannot be read: {error}") from None


def _members(path: Path) -> Iterator[tuple[str, bool, int]]:
    """Name, whether it is a file or a folder, and unpacked size of every member."""
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)
                yield member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), member.file_size
        return
    with tarfile.open(path) as tar:
        for entry in tar:
            yield entry.name, entry.isreg() or entry.isdir(), entry.size


def _reaches_out(name: str) -> bool:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts
