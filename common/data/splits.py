"""One function from a name to splits of columns, for embedded and stored data sets alike."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

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

    def __iter__(self) -> Iterator[str]:
        return iter(self._data.column_names)

    def __len__(self) -> int:
        return len(self._data.column_names)
