"""One long text, read as windows of ``block_size`` tokens at random places.

The places of batch ``k`` are a pure function of (seed, epoch, k), so a run goes on exactly where
it stopped. An "epoch" is as many batches as would cover the text once. Evaluations read the
held-out text from its beginning, window by window, each token predicted once; at its end fewer
tokens than a window has are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.config import RunContext, Source, option
from common.data.info import DatasetInfo, DataSplits
from common.data.loaders import Batch, TensorLoader
from common.data.splits import Columns, load_splits
from common.utils.errors import DataError
from common.utils.seeding import mix_seed
from common.utils.text import did_you_mean
from papers.gpt2.tokenization import (
    Characters,
    TextTokenizer,
    TokenArray,
    fingerprint,
    load_tokenizer,
    save_tokenizer,
)


@dataclass
class TextConfig:
    """Which text, and how it is cut into tokens, windows and batches."""

    name: str = option("data set: embedded/..., or a name in the store", "embedded/dates")
    config: str | None = option("configuration of the data set", None)
    columns: list[str] = option("columns of text that make a row", ["text"])
    separator: str = option("between the columns of a row", " ")
    end: str = option("after each row", "")
    held_out: float = option(
        "join all splits and hold out this last share; 0: the data set's own splits",
        0.0,
        ge=0,
        lt=1,
    )
    tokenizer: str = option("chars, or a model of the store whose tokenizer is taken", "chars")
    unknown: str = option(
        "what happens to characters the vocabulary lacks", "error", choices=("error", "drop")
    )
    block_size: int = option("tokens of a window", 64, ge=1)
    batch_size: int = option("windows of an update", 12, ge=1)
    eval_batch_size: int = option("windows of an evaluation batch", 64, ge=1)
    validation_windows: int = option(
        "windows, evenly spread, that a validation while training looks at; 0: all", 0, ge=0
    )
    tokenizer_sha256: str | None = option("of tokenizer.json; from the data", None)


@dataclass(frozen=True)
class TextData(DataSplits):
    """Loaders of windows, and the tokenizer."""

    tokenizer: TextTokenizer


def build_data(
    config: TextConfig,
    context: RunContext,
    directory: Path,
    seed: int,
    section: str = "data",
) -> TextData:
    """Read the text, learn (or read again) the tokenizer, and make the loaders.

    Args:
        config: Which text.
        context: Where the tokenizer's hash is recorded, so that a resume with another is refused.
        directory: The run's; its ``tokenizer.json`` is read if it is there, else written.
        seed: Of the windows' places.
        section: Where ``config`` stands in the experiment's configuration.

    Raises:
        DataError: if a split or column is missing, or a text is shorter than a window.
    """
    texts = load_texts(config)
    path = directory / "tokenizer.json"
    tokenizer = load_tokenizer(path) if path.exists() else _learn(config, texts["train"])
    if not path.exists():
        save_tokenizer(tokenizer, path)
    context.resolve(f"{section}.tokenizer_sha256", fingerprint(tokenizer), Source.DATA)
    tokens = {
        split: tokenizer.encode(rows, drop_unknown=config.unknown == "drop")
        for split, rows in texts.items()
    }
    for split, ids in tokens.items():
        if len(ids) <= config.block_size:
            raise DataError(
                f"{config.name}, {split}: {len(ids)} tokens, but a window takes "
                f"{config.block_size} and the one that follows; lower {section}.block_size"
            )
    test = tokens.get("test", tokens["validation"])
    return TextData(
        train=WindowLoader(tokens["train"], config.block_size, config.batch_size, seed),
        validation=evaluation_loader(tokens["validation"], config, config.validation_windows),
        test=evaluation_loader(test, config),
        info=DatasetInfo(
            name=config.name,
            sizes={split: len(ids) for split, ids in tokens.items()},
            vocab_size=tokenizer.vocab_size,
            input_shape=(config.block_size,),
        ),
        tokenizer=tokenizer,
    )


def load_texts(config: TextConfig) -> dict[str, list[str]]:
    """The rows of ``train``, ``validation`` and, if the data set has one, ``test``.

    With ``held_out`` the rows of all splits follow each other and are cut once: what comes before
    is for training, what comes after is for validation. Characters are cut at that share of them,
    within a row; for the tokenizer of a model, whose tokens have several, the cut is between rows.

    Raises:
        DataError: if a split or a column is missing, or there are not two rows to cut between.
    """
    splits = load_splits(config.name, config.config)
    rows = {split: _rows(columns, config, split) for split, columns in splits.items()}
    if config.held_out:
        whole = [row for part in rows.values() for row in part]
        cut = _cut_characters if config.tokenizer == "chars" else _cut_rows
        return cut(whole, config)
    for split in ("train", "validation"):
        if split not in rows:
            raise DataError(
                f"{config.name} has the splits {sorted(rows)}; {split} is missing. Set "
                "data.held_out to hold out a share of the text"
            )
    return rows


def _cut_characters(rows: list[str], config: TextConfig) -> dict[str, list[str]]:
    whole = "".join(rows)
    cut = int(len(whole) * (1 - config.held_out))
    return {"train": [whole[:cut]], "validation": [whole[cut:]]}


def _cut_rows(rows: list[str], config: TextConfig) -> dict[str, list[str]]:
    """Cut where the end of a row is nearest to the share of the characters."""
    if len(rows) < 2:
        raise DataError(
            f"{config.name} has {len(rows)} rows, and with data.tokenizer={config.tokenizer} a text "
            "is cut between rows; expected two or more, or data.held_out=0"
        )
    ends = np.cumsum([len(row) for row in rows])
    cut = int(np.abs(ends[:-1] - ends[-1] * (1 - config.held_out)).argmin()) + 1
    return {"train": rows[:cut], "validation": rows[cut:]}


def _rows(columns: Columns, config: TextConfig, split: str) -> list[str]:
    for column in config.columns:
        if column not in columns:
            hint = did_you_mean(column, list(columns))
            raise DataError(f"{config.name}, {split}: there is no column '{column}'; {hint}")
    parts = zip(*(columns[column] for column in config.columns), strict=True)
    return [config.separator.join(map(str, row)) + config.end for row in parts]


def _learn(config: TextConfig, train: list[str]) -> TextTokenizer:
    if config.tokenizer == "chars":
        return Characters("".join(train))
    from common.data import download_model

    return load_tokenizer(download_model(config.tokenizer, "tokenizer.json"))


class WindowLoader:
    """Batches ``{"tokens": (B, block_size + 1)}``: windows and the token after each.

    Args:
        tokens: The text.
        block_size: Tokens the model reads at once.
        batch_size: Windows of a global batch.
        seed: Of the places.
    """

    def __init__(self, tokens: TokenArray, block_size: int, batch_size: int, seed: int) -> None:
        self.tokens, self.batch_size, self.seed = tokens, batch_size, seed
        self._offsets = np.arange(block_size + 1)
        self._batches = -(-len(tokens) // (batch_size * block_size))

    def num_batches(self, epoch: int) -> int:
        return self._batches

    def indices(self, epoch: int, batch: int) -> list[int]:
        """Where the windows of a batch begin."""
        return self._places(epoch, batch).tolist()

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch | None]:
        for number in range(start, self._batches):
            places = self._places(epoch, number)[rank::world_size]
            if len(places) == 0:
                yield None
                continue
            windows = self.tokens[places[:, None] + self._offsets]
            yield {"tokens": torch.from_numpy(windows.astype(np.int64))}

    def _places(self, epoch: int, number: int) -> np.ndarray:
        generator = np.random.default_rng(mix_seed(self.seed, epoch, number))
        return generator.integers(len(self.tokens) - len(self._offsets) + 1, size=self.batch_size)


def evaluation_loader(tokens: TokenArray, config: TextConfig, windows: int = 0) -> TensorLoader:
    """Windows side by side over a text.

    Args:
        tokens: The text.
        config: Sizes.
        windows: Take so many, evenly spread; 0 takes all.
    """
    count = (len(tokens) - 1) // config.block_size
    starts = np.arange(count) * config.block_size
    if 0 < windows < count:
        starts = starts[np.arange(windows) * count // windows]
    read = tokens[starts[:, None] + np.arange(config.block_size + 1)]
    return TensorLoader({"tokens": torch.from_numpy(read.astype(np.int64))}, config.eval_batch_size)
