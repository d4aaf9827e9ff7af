"""Groups that a person names: all images of one patient, product or place stay on one side.

read_groups(r"patient_(\\d+)", names)          # from the file names, or
read_groups("data/scans/patients.csv", names)  # from a table with the columns path,group
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from common.utils.errors import DataError, InputError
from common.utils.text import did_you_mean
from projects.image_classification.core.index_files import escape

_COLUMNS = ("path", "group")


def read_groups(group_by: str, names: Sequence[str]) -> list[str]:
    """The group of every image.

    Args:
        group_by: A regular expression, searched in the path below the raw folder; its first group,
            or else the whole match, names the group. Or the name of a CSV file with the columns
            ``path`` (as in the index files, or without the raw folder) and ``group``.
        names: ``raw/<class>/...``.

    Raises:
        InputError: if the expression is none.
        DataError: if the table cannot be read, or images have no group: how many and the first.
    """
    if is_table(group_by):
        return _from_table(Path(group_by), names)
    try:
        expression = re.compile(group_by)
    except re.error as error:
        where = "" if error.pos is None else f" at position {error.pos}"
        raise InputError(
            f"--group-by is {group_by!r}, which is neither a CSV file nor a regular expression: "
            f"{error.msg}{where}"
        ) from None
    found = []
    missing = []
    for name in names:
        match = expression.search(_below_raw(name))
        group = match and (match[1] if expression.groups else match[0])
        if not group:
            missing.append(name)
        found.append(group or "")
    if missing:
        raise DataError(
            f"--group-by {group_by!r} does not match {len(missing):,} of the {len(names):,} "
            f"images, the first: {escape(missing[0])}; expected a regular expression that finds "
            "the group in every path, or a CSV file with the columns path,group"
        )
    return found


def is_table(group_by: str) -> bool:
    """Whether groups come from a CSV file, not from a regular expression."""
    try:
        return group_by.lower().endswith(".csv") or Path(group_by).is_file()
    except (OSError, ValueError):  # too long for a file's name, or with a NUL in it
        return False


def _from_table(path: Path, names: Sequence[str]) -> list[str]:
    groups = _read_table(path, names[0].split("/")[0] + "/" if names else "")
    found = [groups.get(_below_raw(name), groups.get(escape(_below_raw(name)))) for name in names]
    missing = [name for name, group in zip(names, found, strict=True) if group is None]
    if missing:
        shown = ", ".join(escape(name) for name in missing[:3])
        raise DataError(
            f"{path} has no group for {len(missing):,} of the {len(names):,} images: {shown}"
            f"{', ...' if len(missing) > 3 else ''}; add a line path,group for each"
        )
    return [group or "" for group in found]


def _read_table(path: Path, prefix: str) -> dict[str, str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read the groups in {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 (byte {error.start}); save it as UTF-8") from None
    groups: dict[str, str] = {}
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = [column.strip() for column in table.fieldnames or ()]
        table.fieldnames = columns
        for column in _COLUMNS:
            if column not in columns:
                hint = did_you_mean(column, columns)
                raise DataError(
                    f"{path} has no column '{column}' in its first line; {hint}; expected path,group"
                )
        for row in table:
            name, group = (row["path"] or "").strip(), (row["group"] or "").strip()
            if not name or not group:
                raise DataError(f"{path}, line {table.line_num}: expected a path and a group")
            name = name.removeprefix("./").removeprefix(prefix)
            if groups.setdefault(name, group) != group:
                raise DataError(
                    f"{path}, line {table.line_num}: {name!r} is in the group {group!r}, and above "
                    f"in {groups[name]!r}; an image has one group"
                )
    except csv.Error as error:
        raise DataError(f"{path}, line {table.line_num}: no CSV: {error}") from None
    return groups


def _below_raw(name: str) -> str:
    return name.split("/", 1)[1]
