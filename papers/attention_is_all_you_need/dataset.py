"""Sentence pairs for "Attention Is All You Need" (section 5.1): tokenized together, batched by length.

One vocabulary is learned from both sides of the training split only. A batch holds up to
``max_tokens`` source and as many target places, padding included.
"""

from dataclasses import dataclass
from pathlib import Path

from common.config import RunContext, Source, option
from common.data import BucketedBatches
from common.data.info import DatasetInfo, DataSplits
from common.data.pairs import PairLoader, TextPairs, load_pairs
from common.data.tokenization import Tokenizer, train_bpe, train_chars
from common.utils.errors import DataError


@dataclass
class DataConfig:
    """Which pairs, and how they are cut into tokens and batches."""

    name: str = option("data set: embedded/dates, or a name in the store", "embedded/dates")
    config: str | None = option("configuration of the data set, e.g. de-en", None)
    source: str = option("column to translate from; a dot leads into a nested column", "source")
    target: str = option("column to translate to", "target")
    tokenizer: str = option(
        "byte-pair encoding, or single characters", "bpe", choices=("bpe", "chars")
    )
    vocab_size: int = option("size of the vocabulary (bpe)", 37000, ge=300)
    max_tokens: int = option("places of a batch, on each side", 25000, ge=1)
    max_length: int = option("longer training pairs are left out", 250, ge=2)
    tokenizer_sha256: str | None = option("of tokenizer.json; from the data", None)


@dataclass(frozen=True)
class TranslationData(DataSplits):
    """Loaders of training and validation pairs, the test split as text, and the tokenizer."""

    tokenizer: Tokenizer


def build_data(
    config: DataConfig, context: RunContext, directory: Path, seed: int
) -> TranslationData:
    """Load the pairs, learn (or read again) the tokenizer, and make the loaders.

    Args:
        config: Which data.
        context: Where the tokenizer's hash is recorded, so that a resume with another is refused.
        directory: The run's; its ``tokenizer.json`` is read if it is there, else written.
        seed: Of the order.

    Raises:
        DataError: if a split or column is missing, or a side is empty.
    """
    splits = load_splits(config)
    path = directory / "tokenizer.json"
    tokenizer = Tokenizer.load(path) if path.exists() else _learn(config, splits["train"])
    if not path.exists():
        tokenizer.save(path)
    context.resolve("data.tokenizer_sha256", tokenizer.sha256, Source.DATA)
    train = _loader(splits["train"], tokenizer, config, seed, shuffle=True)
    return TranslationData(
        tokenizer=tokenizer,
        train=train,
        validation=_loader(splits["validation"], tokenizer, config, seed, shuffle=False),
        test=splits["test"],
        info=DatasetInfo(
            name=config.name,
            sizes={name: len(pairs[0]) for name, pairs in splits.items()},
            vocab_size=tokenizer.vocab_size,
        ),
    )


def load_splits(config: DataConfig) -> dict[str, TextPairs]:
    """Source and target texts of ``train``, ``validation`` and ``test``."""
    splits = load_pairs(config.name, config.source, config.target, config.config)
    missing = {"train", "validation", "test"} - splits.keys()
    if missing:
        raise DataError(
            f"{config.name} has the splits {sorted(splits)}; {sorted(missing)} are missing"
        )
    return splits


def _learn(config: DataConfig, train: TextPairs) -> Tokenizer:
    texts = (text for side in train for text in side)
    if config.tokenizer == "chars":
        return train_chars(texts)
    return train_bpe(texts, config.vocab_size)


def _loader(
    pairs: TextPairs, tokenizer: Tokenizer, config: DataConfig, seed: int, shuffle: bool
) -> PairLoader:
    source = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(pairs[0])]
    target = [
        [tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(pairs[1])
    ]
    if shuffle:
        kept = [
            i
            for i, both in enumerate(zip(source, target, strict=True))
            if max(map(len, both)) <= config.max_length
        ]
        source, target = [source[i] for i in kept], [target[i] for i in kept]
    order = BucketedBatches(
        [(len(s), len(t)) for s, t in zip(source, target, strict=True)],
        config.max_tokens,
        seed=seed,
        shuffle=shuffle,
    )
    return PairLoader(source, target, order, tokenizer.pad_id)
