"""Images as a person names them on a command line: folders, files, patterns.

Nothing is opened here; the ending decides what of a folder is an image. A file that is named itself
is taken whatever its ending.
"""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.utils.errors import DataError
from common.utils.text import printable
from projects.image_classification.core.folder.image_folder import ENDINGS


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


def find_places(places: Sequence[str]) -> FoundImages:
    """The images of folders (with all below), files and patterns (``**`` reaches any depth).

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
            matches = sorted(glob.glob(str(path), recursive=True))
            if not matches:
                what = "no file matches" if glob.has_magic(str(path)) else "there is nothing at"
                raise DataError(
                    f"--images: {what} '{printable(place)}' (in {Path.cwd()}); expected a folder, "
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
            f"--images: no image in {', '.join(map(printable, places))} ({found.ignored:,} other "
            f"files; images end in {known}, ...)"
        )
    return found


def _take_folder(folder: Path, found: FoundImages, seen: set[str]) -> None:
    for directory, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() not in ENDINGS:
                found.ignored += 1
                continue
            file = Path(directory) / name
            parts = file.relative_to(folder).parts
            _take(file, parts[0] if len(parts) > 1 else "", found, seen)


def _take(file: Path, folder: str, found: FoundImages, seen: set[str]) -> None:
    key = os.path.abspath(file)
    if key not in seen:
        seen.add(key)
        found.files.append(file)
        found.folders.append(folder)
