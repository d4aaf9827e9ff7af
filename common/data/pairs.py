"""Pairs of texts: checked when they are read, and batched as padded token ids.

splits = load_pairs("bentrevett/multi30k", source="en", target="de")
source, target = splits["train"]                      # two lists of the same length
loader = PairLoader(source_ids, target_ids, order, tokenizer.pad_id)
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from common.data.loaders import Batch, OrderedLoader
from common.data.orders import IndexArray, Order
from common.data.splits import Columns, load_splits
from common.utils.errors import DataError
from common.utils.text import did_you_mean

TextPairs = tuple[list[str], list[str]]


class TokenLists:
    """Lists of token ids of any length, end to end in one array of four bytes a token.

    Args:
        lists: Token ids of each item.
    """

    def __init__(self, lists: Sequence[Sequence[int]]) -> None:
        self.lengths: IndexArray = np.fromiter(map(len, lists), np.int64, len(lists))
        self._ends = np.cumsum(self.lengths)
        total = int(self._ends[-1]) if len(lists) else 0
        self._tokens: NDArray[np.int32] = np.fromiter(
            (token for tokens in lists for token in tokens), np.int32, total
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> list[int]:
        end = self._ends[index]
        return self._tokens[end - self.lengths[index] : end].tolist()

    def pad(self, rows: IndexArray, pad_id: int) -> Int[Tensor, "B T"]:
        """Some items side by side, the shorter ones filled up with ``pad_id`` on the right."""
        lengths = self.lengths[rows]
        is_token = np.arange(int(lengths.max())) < lengths[:, None]
        # Row i's tokens lie at ends[i] - lengths[i] + (0, 1, ...), its places in reading order.
        shift = self._ends[rows] - np.cumsum(lengths)
        places = np.arange(int(lengths.sum())) + np.repeat(shift, lengths)
        padded = np.full(is_token.shape, pad_id, dtype=np.int64)
        padded[is_token] = self._tokens[places]
        return torch.from_numpy(padded)


class PairLoader(OrderedLoader):
    """Batches ``{"source": (B, S), "target": (B, T)}`` of padded token ids, from memory.

    Args:
        source: Token ids of each source.
        target: Token ids of each target.
        order: Which pairs make up which batch.
        pad_id: Fills up the shorter rows, on the right.

    Raises:
        DataError: if there are not as many sources as targets.
    """

    def __init__(
        self,
        source: Sequence[Sequence[int]],
        target: Sequence[Sequence[int]],
        order: Order,
        pad_id: int,
    ) -> None:
        super().__init__(order)
        if len(source) != len(target):
            raise DataError(f"{len(source)} sources and {len(target)} targets make no pairs")
        self.source, self.target, self.pad_id = TokenLists(source), TokenLists(target), pad_id

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch | None]:
        for share in self.shares(epoch, start, rank, world_size):
            yield self._read(share) if len(share) else None

    def _read(self, share: IndexArray) -> Batch:
        return {
            "source": self.source.pad(share, self.pad_id),
            "target": self.target.pad(share, self.pad_id),
        }


def pad_batch(sequences: Sequence[Sequence[int]], pad_id: int) -> Int[Tensor, "B T"]:
    """Token ids side by side, the shorter ones filled up with ``pad_id`` on the right."""
    return TokenLists(sequences).pad(np.arange(len(sequences)), pad_id)


def load_pairs(
    name: str, source: str, target: str, config: str | None = None
) -> dict[str, TextPairs]:
    """Two columns of text of every split, checked.

    Args:
        name: An embedded data set, or one of the store or the Hub.
        source: A column; a dot leads into a nested one, as in ``translation.de``.
        target: The other column.
        config: Which configuration of the data set.

    Raises:
        DataError: if a column is missing, or ``check_pairs`` finds something.
    """
    splits = load_splits(name, config)
    pairs = {}
    for split, columns in splits.items():
        where = f"{name}, split '{split}'"
        sides = _column(columns, source, where), _column(columns, target, where)
        check_pairs(*sides, where)
        pairs[split] = sides
    return pairs


def check_pairs(source: Sequence[Any], target: Sequence[Any], where: str) -> None:
    """Stop unless line ``i`` of one side belongs to line ``i`` of the other.

    Args:
        source: One side.
        target: The other.
        where: Name of what is checked, for the message.

    Raises:
        DataError: if the sides differ in length or are empty, or one holds something else than
            valid Unicode text; it names the first index.
    """
    if len(source) != len(target):
        raise DataError(
            f"{where}: {len(source)} sources and {len(target)} targets; line i of one side must "
            "belong to line i of the other"
        )
    if not len(source):
        raise DataError(f"{where}: there are no pairs; expected at least one")
    for side, texts in (("source", source), ("target", target)):
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                kind = "missing" if text is None else f"a {type(text).__name__}"
                raise DataError(f"{where}: {side} {index} is {kind}, expected text")
            if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
                raise DataError(f"{where}: {side} {index} is no valid Unicode: {text[:60]!a}")


def read_pairs(source: Path | str, target: Path | str) -> TextPairs:
    """Two files with one text a line, line ``i`` of one belonging to line ``i`` of the other.

    Raises:
        DataError: if a file is missing, empty or no UTF-8, or the numbers of lines differ.
    """
    sides = read_lines(source), read_lines(target)
    if sides[0] and sides[1] and len(sides[0]) != len(sides[1]):
        shorter, longer = sorted(zip(map(len, sides), (source, target), strict=True))
        raise DataError(
            f"{shorter[1]} ends after line {shorter[0]}, {longer[1]} after line {longer[0]}: its "
            f"line {shorter[0] + 1} has no partner"
        )
    check_pairs(*sides, f"{source} and {target}")
    return sides


def read_lines(path: Path | str) -> list[str]:
    """The lines of a UTF-8 file; a byte-order mark and carriage returns are taken off.

    Lines end at line feeds alone. ``str.splitlines`` would also cut at the separators U+2028,
    U+0085 and others that occur inside sentences, and shift everything after them.

    Raises:
        DataError: if it cannot be read, or is no UTF-8; it names the line.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        bad = content[error.start : error.start + 1]
        raise DataError(f"{path}, line {line}: the byte {bad!r} is no UTF-8") from None
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _column(columns: Columns, column: str, where: str) -> list[Any]:
    if column not in columns:
        raise DataError(f"{where} has no column '{column}'; {did_you_mean(column, columns)}")
    return list(columns[column])
