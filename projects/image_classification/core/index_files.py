r"""Index files: which images are in a set, one relative path per line.

    write_index(Path("data/pets/splits/test.txt"), ["raw/cat/1.jpg", "raw/dog/2.jpg"])
    names = read_index(Path("data/pets/splits/test.txt"))

A path is relative to ``data/<name>`` and separated by ``/``. Ordinary names, with spaces and
letters of any script, stand as they are. What could not survive a line of UTF-8 is escaped:

    \\        a backslash
    \n \r \t  a line feed, a carriage return, a tab
    \xHH      another control character, or a space at the start or end; from 80 on a byte that is
              no UTF-8, as ``os.fsdecode`` gives it
    \uHHHH    what some readers take for the end of a line or of the text (U+0085, U+2028, U+2029,
              U+FEFF)

Lists made elsewhere may begin with a byte order mark, end their lines with CRLF, and hold empty
lines; spaces around a line do not count.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from common.utils.errors import DataError
from common.utils.files import atomic_write_text

_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_LONG = {short: character for character, short in _SHORT.items()}
_TO_ESCAPE = re.compile(r"^ +| +$|[\x00-\x1f\x7f-\x9f\\\u2028\u2029\ufeff\ud800-\udfff]")
_ESCAPE = re.compile(r"\\(?:\\|n|r|t|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|(.?))", re.DOTALL)


def escape(name: str) -> str:
    """A path as it stands in an index file."""
    return _TO_ESCAPE.sub(_escaped, name)


def unescape(line: str) -> str:
    """The path that a line stands for.

    Raises:
        DataError: for a backslash that begins no escape.
    """

    def plain(match: re.Match[str]) -> str:
        text = match[0]
        if match[1] is not None:
            raise DataError(
                f"{text!r} is no escape; folders are separated by '/', and a backslash in a name "
                "is written twice"
            )
        if text in _LONG:
            return _LONG[text]
        code = int(text[2:], 16)
        return chr(0xDC00 + code) if text[1] == "x" and code >= 0x80 else chr(code)

    return _ESCAPE.sub(plain, line)


def write_index(path: Path, names: Sequence[str]) -> None:
    """Write a list of relative paths.

    Args:
        path: The index file; its folder must exist.
        names: Paths with ``/``, as ``os.fsdecode`` gives them.

    Raises:
        DataError: for a path that could not be read again: absolute, with ``..``, or twice.
        FaultError: if the file cannot be written.
    """
    lines = _checked(path, list(enumerate(names, 1)))
    atomic_write_text(path, "".join(f"{escape(name)}\n" for name in lines))


def read_index(path: Path) -> list[str]:
    """Read a list of relative paths; whether the files are there is ``find_files``' question.

    Args:
        path: The index file.

    Raises:
        DataError: naming the file and the line: if it is missing or no UTF-8, or a path is
            absolute, holds ``..`` or an unknown escape, or stands there twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no UTF-8: byte {error.start} is {error.object[error.start]:#04x}; save it "
            "as UTF-8, or make it anew with ml-split"
        ) from None
    except OSError as error:
        raise DataError(
            f"cannot read the index file {path}: {error.strerror}; make it with ml-split"
        ) from None
    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip(" \t\r"):
            try:
                entries.append((number, unescape(line.strip(" \t\r"))))
            except DataError as error:
                raise DataError(f"{path}, line {number}: {error}") from None
    return _checked(path, entries)


def find_files(path: Path, names: Sequence[str], root: Path | None = None) -> list[Path]:
    """Where the files of an index lie.

    Args:
        path: The index file, for messages.
        names: What ``read_index`` gave for it.
        root: The folder they are relative to; ``data/<name>`` for ``data/<name>/splits/x.txt``.

    Raises:
        DataError: if any is missing: the first one's line, how many, and the folder that was
            expected.
    """
    root = path.parent.parent if root is None else root
    files = [root / name for name in names]
    missing = [index for index, file in enumerate(files) if not os.path.exists(file)]
    if missing:
        first = missing[0]
        folder = root / names[first].split("/")[0]
        what = (
            f"the folder {folder} is not there; was it moved? put it back, or split it where it "
            f"is now: ml-split --raw_data FOLDER"
            if not folder.is_dir()
            else f"the folder {folder} has changed since it was split; put the files back, or "
            f"split again: ml-split --raw_data {folder}"
        )
        raise DataError(
            f"{path}, line {_line_of(path, names[first])}: there is no file "
            f"{escape(names[first])!r} in {root}; {len(missing):,} of the {len(names):,} listed "
            f"files are missing; {what}"
        )
    return files


def _escaped(match: re.Match[str]) -> str:
    return "".join(_escaped_character(character) for character in match[0])


def _escaped_character(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def _checked(path: Path, entries: list[tuple[int, str]]) -> list[str]:
    seen: dict[str, int] = {}
    for number, name in entries:
        problem = ""
        if name.startswith("/") or re.match(r"[A-Za-z]:/", name):
            problem = "is absolute; expected a path relative to the data set's folder"
        elif not {"", ".", ".."}.isdisjoint(name.split("/")) or "\0" in name:
            problem = "is no plain path such as raw/class/image.jpg, without '.', '..' and '//'"
        elif name in seen:
            problem = f"stands in line {seen[name]} already; every image is listed once"
        if problem:
            raise DataError(f"{path}, line {number}: {escape(name)!r} {problem}")
        seen[name] = number
    return [name for _, name in entries]


def _line_of(path: Path, name: str) -> int | str:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError):
        return "?"
    return next((n for n, line in enumerate(lines, 1) if line.strip(" \t\r") == escape(name)), "?")
