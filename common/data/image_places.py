"""Images as a person names them on a command line: folders, files, patterns.

Nothing is opened here; the ending decides what of a folder is an image. A file that is named itself
is taken whatever its ending. A link to a folder is followed if it leads out of the folder that is
searched, once: one that leads back would show images twice, or without end.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.utils.errors import DataError
from common.utils.text import printable

# File endings of the formats that ``common.data.images.decode_image`` reads; the content decides.
ENDINGS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    ".gif": "GIF",
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    ".webp": "WEBP",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".jp2", ".j2k", ".jpx", ".j2c", ".jpc"), "JPEG2000"),
}


@dataclass
class FoundImages:
    """What places hold.

    Attributes:
        files: Images, in the order of the places, sorted within each, none twice.
        folders: For each image that was found in a folder, the first folder below that one, which
            names its class where images are sorted by class; else empty.
        ignored: How many other files the folders hold.
    """

    files: list[Path] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    ignored: int = 0


def find_places(places: Sequence[str], option: str = "--images") -> FoundImages:
    """The images of folders (with all below), files and patterns (``**`` reaches any depth).

    Args:
        places: As they were typed.
        option: What they were given as, for messages.

    Raises:
        DataError: if a place does not exist or matches nothing, or there is no image at all.
    """
    found, seen = FoundImages(), set[str]()
    for place in places:
        path = Path(place).expanduser()
        if path.is_dir():
            _take_folder(path, found, seen)
        elif path.exists():
            _take(path, "", found, seen)
        else:
            matches = _matches(str(path))
            if not matches:
                what = "no file matches" if glob.has_magic(str(path)) else "there is nothing at"
                raise DataError(
                    f"{option}: {what} '{printable(place)}' (in {Path.cwd()}); expected a folder, "
                    "an image, or a pattern in quotes such as 'photos/**/*.jpg'"
                )
            for match in matches:
                if os.path.isdir(match):
                    _take_folder(Path(match), found, seen)
                else:
                    _take(Path(match), "", found, seen)
    if not found.files:
        known = ", ".join(sorted(ending[1:] for ending in ENDINGS)[:8])
        raise DataError(
            f"{option}: no image in {', '.join(map(printable, places))} ({found.ignored:,} other "
            f"files; images end in {known}, ...)"
        )
    return found


def _matches(pattern: str) -> list[str]:
    """What ``glob`` finds with ``recursive=True``, without going round in loops of links."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return sorted(glob.glob(pattern))
    place = parts.index("**")
    roots = [each for each in glob.glob(os.path.join(".", *parts[:place])) if os.path.isdir(each)]
    rest = parts[place + 1 :]
    if not rest:
        return sorted(roots)
    found = [
        match
        for root in roots
        for directory, _ in _folders(root)
        for match in _matches(os.path.join(glob.escape(directory), *rest))
    ]
    return sorted(dict.fromkeys(found))


def _folders(root: str | Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder from ``root`` on that is not hidden, and the names of its files, sorted."""
    top, visited = os.path.realpath(root), set[str]()
    for directory, below, names in os.walk(root, followlinks=True):
        below[:] = sorted(
            name
            for name in below
            if not name.startswith(".") and _is_new(os.path.join(directory, name), top, visited)
        )
        yield directory, sorted(names)


def _is_new(folder: str, top: str, visited: set[str]) -> bool:
    if not os.path.islink(folder):
        return True
    target = os.path.realpath(folder)
    around = os.path.commonpath([target, top]) in (target, top)  # within it, or above it
    if around or target in visited:
        return False
    visited.add(target)
    return True


def _take_folder(folder: Path, found: FoundImages, seen: set[str]) -> None:
    for directory, names in _folders(folder):
        for name in names:
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() not in ENDINGS:
                found.ignored += 1
                continue
            file = Path(directory) / name
            parts = file.relative_to(folder).parts
            _take(file, parts[0] if len(parts) > 1 else "", found, seen)


def _take(file: Path, folder: str, found: FoundImages, seen: set[str]) -> None:
    key = os.path.join(os.path.realpath(file.parent), file.name)
    if key not in seen:
        seen.add(key)
        found.files.append(file)
        found.folders.append(folder)
