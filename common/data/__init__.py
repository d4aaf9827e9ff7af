"""Data: the store, embedded data sets, text, and loaders whose order is pure."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from common.data.embedded import load_embedded
from common.data.foreign import as_epoch_loader, iterate, keeps_state
from common.data.info import DatasetInfo
from common.data.loaders import Batch, EpochLoader, SampleLoader, TensorLoader
from common.data.orders import BucketedBatches, Order, ShuffledBatches, padding_share
from common.data.pairs import PairLoader, load_pairs, pad_batch, read_pairs
from common.data.splits import load_splits
from common.data.tokenization import Tokenizer, train_bpe, train_chars
from common.utils.paths import get_assets_dir, get_datasets_dir, get_models_dir, get_outputs_dir

if TYPE_CHECKING:
    from common.data.hf_utils import download_dataset, download_model, link_dataset

# Looked up on first use: who only wants a loader does not pay for the download client.
_LAZY = {
    "download_dataset": "common.data.hf_utils",
    "download_model": "common.data.hf_utils",
    "link_dataset": "common.data.hf_utils",
}

__all__ = [
    "Batch",
    "BucketedBatches",
    "DatasetInfo",
    "EpochLoader",
    "Order",
    "PairLoader",
    "SampleLoader",
    "ShuffledBatches",
    "TensorLoader",
    "Tokenizer",
    "as_epoch_loader",
    "download_dataset",
    "download_model",
    "get_assets_dir",
    "get_datasets_dir",
    "get_models_dir",
    "get_outputs_dir",
    "iterate",
    "keeps_state",
    "link_dataset",
    "load_embedded",
    "load_pairs",
    "load_splits",
    "pad_batch",
    "padding_share",
    "read_pairs",
    "train_bpe",
    "train_chars",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
