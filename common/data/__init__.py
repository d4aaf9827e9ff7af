"""Data: the store, embedded data sets, text, and loaders whose order is pure.

Names are imported when they are first used: looking into the store waits for neither PyTorch nor
the download client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from common.utils.paths import get_assets_dir, get_datasets_dir, get_models_dir, get_outputs_dir

if TYPE_CHECKING:
    from common.data.augmentation import CropFlipConfig, crop_flip
    from common.data.augmentation_config import AugmentationConfig
    from common.data.card import Card, list_store, verify_store
    from common.data.class_batches import ClassBatches
    from common.data.embedded import load_embedded
    from common.data.folds import Folds, frozen_folds, make_folds, read_folds, write_folds
    from common.data.foreign import as_epoch_loader, iterate, keeps_state
    from common.data.hf_utils import download_dataset, download_model, fetch_dataset, link_dataset
    from common.data.image_augmentation import build_augmentation
    from common.data.image_batches import collate_images
    from common.data.image_cache import ImageCache
    from common.data.image_dataset import DecodedImages, ImageDataset, scan_images
    from common.data.image_places import find_places
    from common.data.images import decode_image
    from common.data.info import DatasetInfo, DataSplits
    from common.data.labelled_images import LabelledImagesConfig, load_labelled_images
    from common.data.labels import check_labels
    from common.data.loaders import Batch, EpochLoader, SampleLoader, TensorLoader
    from common.data.mixing import Mixing
    from common.data.open_set_images import OpenSetImagesConfig, load_open_set_images
    from common.data.orders import (
        BalancedBatches,
        BucketedBatches,
        Order,
        PoissonBatches,
        ShuffledBatches,
        padding_share,
    )
    from common.data.pairs import PairLoader, load_pairs, pad_batch, read_pairs
    from common.data.preprocessed_images import PreprocessedImages
    from common.data.preprocessing import Preprocessing, random_resized_crop
    from common.data.preprocessing_config import PreprocessingConfig
    from common.data.splits import find_duplicates, load_splits
    from common.data.tokenization import Tokenizer, train_bpe, train_chars

_HOMES = {
    "CropFlipConfig": "augmentation",
    "crop_flip": "augmentation",
    "AugmentationConfig": "augmentation_config",
    "Card": "card",
    "list_store": "card",
    "verify_store": "card",
    "ClassBatches": "class_batches",
    "load_embedded": "embedded",
    "Folds": "folds",
    "frozen_folds": "folds",
    "make_folds": "folds",
    "read_folds": "folds",
    "write_folds": "folds",
    "as_epoch_loader": "foreign",
    "iterate": "foreign",
    "keeps_state": "foreign",
    "download_dataset": "hf_utils",
    "download_model": "hf_utils",
    "fetch_dataset": "hf_utils",
    "link_dataset": "hf_utils",
    "collate_images": "image_batches",
    "ImageCache": "image_cache",
    "build_augmentation": "image_augmentation",
    "DecodedImages": "image_dataset",
    "ImageDataset": "image_dataset",
    "scan_images": "image_dataset",
    "find_places": "image_places",
    "decode_image": "images",
    "DatasetInfo": "info",
    "DataSplits": "info",
    "LabelledImagesConfig": "labelled_images",
    "load_labelled_images": "labelled_images",
    "check_labels": "labels",
    "Batch": "loaders",
    "EpochLoader": "loaders",
    "SampleLoader": "loaders",
    "TensorLoader": "loaders",
    "Mixing": "mixing",
    "OpenSetImagesConfig": "open_set_images",
    "load_open_set_images": "open_set_images",
    "BalancedBatches": "orders",
    "BucketedBatches": "orders",
    "Order": "orders",
    "PoissonBatches": "orders",
    "ShuffledBatches": "orders",
    "padding_share": "orders",
    "PairLoader": "pairs",
    "load_pairs": "pairs",
    "pad_batch": "pairs",
    "read_pairs": "pairs",
    "PreprocessedImages": "preprocessed_images",
    "Preprocessing": "preprocessing",
    "random_resized_crop": "preprocessing",
    "PreprocessingConfig": "preprocessing_config",
    "find_duplicates": "splits",
    "load_splits": "splits",
    "Tokenizer": "tokenization",
    "train_bpe": "tokenization",
    "train_chars": "tokenization",
}

__all__ = [
    "AugmentationConfig",
    "BalancedBatches",
    "Batch",
    "BucketedBatches",
    "Card",
    "ClassBatches",
    "CropFlipConfig",
    "DataSplits",
    "DatasetInfo",
    "DecodedImages",
    "EpochLoader",
    "Folds",
    "ImageCache",
    "ImageDataset",
    "LabelledImagesConfig",
    "Mixing",
    "OpenSetImagesConfig",
    "Order",
    "PairLoader",
    "PoissonBatches",
    "PreprocessedImages",
    "Preprocessing",
    "PreprocessingConfig",
    "SampleLoader",
    "ShuffledBatches",
    "TensorLoader",
    "Tokenizer",
    "as_epoch_loader",
    "build_augmentation",
    "check_labels",
    "collate_images",
    "crop_flip",
    "decode_image",
    "download_dataset",
    "download_model",
    "fetch_dataset",
    "find_duplicates",
    "find_places",
    "frozen_folds",
    "get_assets_dir",
    "get_datasets_dir",
    "get_models_dir",
    "get_outputs_dir",
    "iterate",
    "keeps_state",
    "link_dataset",
    "list_store",
    "load_embedded",
    "load_labelled_images",
    "load_open_set_images",
    "load_pairs",
    "load_splits",
    "make_folds",
    "pad_batch",
    "padding_share",
    "random_resized_crop",
    "read_folds",
    "read_pairs",
    "scan_images",
    "train_bpe",
    "train_chars",
    "verify_store",
    "write_folds",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
