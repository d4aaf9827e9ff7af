"""Splits: from a name to their columns, embedded and stored alike; and what they share by mistake."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from loguru import logger

from common.data.embedded import load_embedded
from common.utils.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

Columns = Mapping[str, Any]  # a list or an array for each column

_EMBEDDED = "embedded/"


def load_splits(name: str, config: str | None = None) -> dict[str, Columns]:
    """The splits of a data set, each a mapping from columns to their values.

    Args:
        name: ``embedded/...``, or a name in the store; what is not there yet is fetched.
        config: Which configuration of a stored data set.

    Raises:
        DataError: if there is no such data set.
        DownloadError: if it is not in the store and cannot be fetched.
    """
    if name.startswith(_EMBEDDED):
        if config is not None:
            raise DataError(f"{name} has no configurations, but '{config}' was asked for")
        return dict(load_embedded(name))
    from common.data.hf_utils import download_dataset

    return {split: _StoredColumns(data) for split, data in download_dataset(name, config).items()}


class _StoredColumns(Mapping[str, list[Any]]):
    """The columns of a ``datasets.Dataset``, read when they are asked for.

    Nested ones have a dot in their names: WMT's sentences are ``translation.de`` and so on.
    """

    def __init__(self, data: "Dataset") -> None:
        self._data = data.flatten()

    def __getitem__(self, column: str) -> list[Any]:
        if column not in self._data.column_names:
            raise KeyError(column)
        return self._data[column][:]

    def __contains__(self, column: object) -> bool:
        return column in self._data.column_names  # without reading, which decodes its images

    def __iter__(self) -> Iterator[str]:
        return iter(self._data.column_names)

    def __len__(self) -> int:
        return len(self._data.column_names)

    def class_names(self, column: str) -> tuple[str, ...]:
        """The names of a column of class labels; empty for any other."""
        return tuple(getattr(self._data.features[column], "names", None) or ())

    def encoded(self, column: str) -> Sequence[Any]:
        """The images of a column as they are stored, read one at a time."""
        from datasets import Image

        return _Rows(self._data.select_columns([column]).cast_column(column, Image(decode=False)))


class _Rows(Sequence[Any]):
    """The values of the one column of a table, read when they are asked for."""

    def __init__(self, table: "Dataset") -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        return next(iter(self._table[int(index)].values()))


def encoded_images(columns: Columns, column: str) -> Sequence[Any]:
    """The images in ``column``, which must be there; those of a stored data set stay encoded."""
    if isinstance(columns, _StoredColumns):
        return columns.encoded(column)
    values: Sequence[Any] = columns[column]
    return values


def class_names(columns: Columns, column: str) -> tuple[str, ...]:
    """The names of the classes in ``column``, if the data set has them."""
    if isinstance(columns, _StoredColumns) and column in columns:
        return columns.class_names(column)
    return ()


def find_duplicates(splits: Mapping[str, Iterable[Any]]) -> dict[str, list[tuple[int, int]]]:
    """Examples that are in more than one split, equal to the last bit.

    What is found is logged: a test set that the model has seen measures nothing.

    Args:
        splits: The examples of each split. An example is text, bytes, a number, an array or tensor,
            a ``Path`` (its file's content counts), or a tuple, list or dict of these: give
            ``zip(columns["source"], columns["target"])`` to compare pairs.

    Returns:
        For ``"train, test"`` and every other two splits that share something: the index in the
        first where it occurs first, and the index in the second, for each one in the second.

    Raises:
        TypeError: for other values.
        DataError: if a file cannot be read.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    seen: dict[str, dict[bytes, int]] = {}
    for split, examples in splits.items():
        digests = [_digest(example) for example in examples]
        for other, known in seen.items():
            shared = [(known[d], index) for index, d in enumerate(digests) if d in known]
            if shared:
                found[f"{other}, {split}"] = shared
                first, second = shared[0]
                logger.warning(
                    f"{len(shared):,} of the {len(digests):,} examples of '{split}' are also in "
                    f"'{other}'; the first: {second} is {first} there"
                )
        seen[split] = {digest: index for index, digest in reversed(list(enumerate(digests)))}
    return found


def _digest(example: Any) -> bytes:
    hasher = blake2b(digest_size=16)
    for kind, content in _parts(example):
        hasher.update(f"{kind} {len(content)} ".encode())
        hasher.update(content)
    return hasher.digest()


def _parts(value: Any) -> Iterator[tuple[str, bytes]]:
    """A value as named pieces of bytes; no two different values give the same."""
    if isinstance(value, str):
        yield "text", value.encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes):
        yield "bytes", value
    elif isinstance(value, Path):
        try:
            yield "bytes", value.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {value}: {error.strerror}") from None
    elif value is None or isinstance(value, bool | int | float):
        yield type(value).__name__, repr(value).encode()
    elif isinstance(value, Mapping):
        yield "mapping", str(len(value)).encode()
        for name in sorted(value):
            yield "key", str(name).encode()
            yield from _parts(value[name])
    elif isinstance(value, list | tuple):
        yield "list", str(len(value)).encode()
        for item in value:
            yield from _parts(item)
    elif hasattr(value, "__array__"):
        array = np.asarray(value)
        yield f"array {array.dtype} {array.shape}", array.tobytes()
    else:
        raise TypeError(f"{type(value).__name__} has no bytes to compare")
