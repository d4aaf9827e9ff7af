"""What lies in ``data/<name>/raw``: a folder per class, and in it images, at any depth.

    folder = find_images(Path("data/pets/raw"))
    folder.names, folder.classes                      # raw/cat/1.jpg ..., cat ...

Nothing is opened and nothing is changed; the result depends neither on the order in which the
system lists a folder nor on the machine. Links to files are followed wherever they lead. A link to
a folder is followed if it leads out of the raw folder, once per folder it leads to (a class folder
may be a link to where its photos lie); one that leads back into the raw folder, or to a folder
above it, would show images twice and is listed instead.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from common.data.image_places import ENDINGS
from common.utils.errors import DataError

_HIDDEN = {"thumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "@eadir"}


@dataclass
class ImageFolder:
    """The images of a raw folder, by name only.

    Attributes:
        raw: The folder, absolute; links in its path are kept.
        names: ``raw/<class>/...``, relative to the folder above, in order.
        classes: The class of each.
        empty_classes: Class folders without any image.
        stray: Images that lie in no class folder; they are in no set.
        ignored: Other files.
        links: Links that were not followed, and why.
        warnings: What a person should look at.
    """

    raw: Path
    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    empty_classes: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def find_images(raw: Path) -> ImageFolder:
    """List the images of a raw folder.

    Raises:
        DataError: if it is missing or has no images, or a class has a name that cannot be used.
    """
    raw = check_raw_folder(raw)
    found = ImageFolder(raw)
    walk = _Walk(raw, found)
    walk.go()
    if not found.names:
        raise DataError(_nothing_found(found, walk.class_names))
    order = sorted(range(len(found.names)), key=found.names.__getitem__)
    found.classes = [found.classes[index] for index in order]
    found.names = [found.names[index] for index in order]
    found.empty_classes = sorted(walk.class_names - set(found.classes))
    found.stray.sort()
    found.ignored.sort()
    _check_class_names(sorted(walk.class_names), found)
    return found


def check_raw_folder(raw: Path) -> Path:
    """Its absolute path, links kept, if it can be a raw folder; its images are not looked at.

    Raises:
        DataError: if it is missing, or is the folder above: ``data/pets`` or ``data`` instead of
            ``data/pets/raw`` would make classes of data sets.
    """
    raw = Path(os.path.abspath(raw.expanduser()))
    if not raw.is_dir():
        what = "is no folder" if os.path.lexists(raw) else "does not exist"
        raise DataError(
            f"the raw folder {raw} {what}; expected one with a folder of images for each class, "
            "such as data/pets/raw with cat/ and dog/ in it"
        )
    if not raw.name:
        raise DataError(f"{raw} cannot be the raw folder; give one such as data/pets/raw")
    inner = raw / "raw"
    if not inner.is_dir():
        sealed = sorted(raw.glob("*/splits/split.json"))
        if not sealed:
            return raw
        inner = sealed[0].parent.parent / "raw"
    raise DataError(f"{raw} is the folder above the raw folder; did you mean {inner}?")


class _Walk:
    """Goes through the folders in the order of their names, without recursion."""

    def __init__(self, raw: Path, found: ImageFolder) -> None:
        self.raw, self.found = raw, found
        self.class_names: set[str] = set()
        self._root = os.path.realpath(raw)
        self._visited: dict[tuple[int, int], str] = {}

    def go(self) -> None:
        pending = [(str(self.raw), self.raw.name)]
        while pending:
            path, name = pending.pop()
            folders = []
            for entry in self._listed(path):
                if entry.name.startswith(".") or entry.name.lower() in _HIDDEN:
                    continue
                below = f"{name}/{entry.name}"
                if self._is_folder(entry, below):
                    folders.append((entry.path, below))
                elif below not in self.found.links:
                    self._take(below)
            if path == str(self.raw):
                self.class_names = {os.path.basename(folder) for folder, _ in folders}
            pending += reversed(folders)

    def _listed(self, path: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"cannot list the folder {path!a}: {error.strerror}; its images would be missing"
            ) from None

    def _is_folder(self, entry: os.DirEntry[str], name: str) -> bool:
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that leads to itself
            is_folder = False
        if not entry.is_symlink():
            return is_folder
        if not is_folder:
            is_image = os.path.splitext(name)[1].lower() in ENDINGS  # then it is a bad image
            if not is_image and not os.path.exists(entry.path):
                self.found.links[name] = "leads nowhere"
            return False
        target = os.path.realpath(entry.path)
        inside = (target + os.sep).startswith(self._root.rstrip(os.sep) + os.sep)
        if inside or (self._root + os.sep).startswith(target.rstrip(os.sep) + os.sep):
            self.found.links[name] = "leads back into the raw folder" if inside else "leads above"
            return False
        status = os.stat(target)
        key = (status.st_dev, status.st_ino)
        if key in self._visited:
            self.found.links[name] = f"leads to the same folder as {self._visited[key]}"
            return False
        self._visited[key] = name
        return True

    def _take(self, name: str) -> None:
        if os.path.splitext(name)[1].lower() not in ENDINGS:
            self.found.ignored.append(name)
        elif name.count("/") == 1:
            self.found.stray.append(name)
        else:
            self.found.names.append(name)
            self.found.classes.append(name.split("/")[1])


def file_kinds(names: list[str]) -> list[tuple[str, int]]:
    """The endings of some files and how many have each, the commonest first."""
    counts = Counter(os.path.splitext(name)[1].lower() or "no ending" for name in names)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _nothing_found(found: ImageFolder, class_names: set[str]) -> str:
    seen = f"{len(class_names)} class folders" if class_names else "no class folders"
    others = ", ".join(f"{count:,} {kind}" for kind, count in file_kinds(found.ignored)[:5])
    hint = f"; it has {len(found.stray):,} images outside of class folders" if found.stray else ""
    return (
        f"the raw folder {found.raw} has no images in class folders ({seen}"
        f"{f'; other files: {others}' if others else ''}){hint}; expected a folder of images "
        f"({', '.join(sorted({ending[1:] for ending in ENDINGS})[:8])}, ...) for each class"
    )


def _check_class_names(names: list[str], found: ImageFolder) -> None:
    """Refuse names that no file could hold or no eye could tell apart; warn of similar ones."""
    same: dict[str, list[str]] = defaultdict(list)
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        bad = next((c for c in name if unicodedata.category(c) in ("Cc", "Cs")), None)
        if bad is not None:
            raise DataError(
                f"the class folder {name!a} in {found.raw} holds {bad!a}, which is no text; "
                "rename it"
            )
        same[unicodedata.normalize("NFC", name)].append(name)
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        alike[" ".join(folded.split())].append(name)
    for group in same.values():
        if len(group) > 1:
            shown = " and ".join(ascii(name) for name in group)
            raise DataError(
                f"the class folders {shown} in {found.raw} are the same text in two Unicode forms; "
                "put their images into one folder"
            )
    for group in alike.values():
        if len(group) > 1:
            shown = " and ".join(f"'{name}'" for name in group)
            found.warnings.append(
                f"the class folders {shown} differ only in case or spaces; they count as "
                f"{len(group)} classes"
            )
