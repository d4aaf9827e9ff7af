"""Every value of a product matching, as ``config.yaml`` and the files of ``configs/`` name it.

``model`` and ``loss`` are sections with a ``_target_``: what the data decides (channels, classes) is
filled in where it is left out. The rest is typed; importing this module loads no PyTorch.
"""

from dataclasses import dataclass
from typing import Any

from common.config import nested, option
from common.data.augmentation_config import AugmentationConfig
from common.data.preprocessing_config import PreprocessingConfig
from common.training.config import TrainerConfig
from common.training.optim import OptimizerConfig
from common.training.schedules import ScheduleConfig
from common.utils.errors import ConfigError

TARGET = "_target_"
DEFAULT_DATA = "embedded/digit_products"


@dataclass
class DataConfig:
    """Which images, with which labels; exactly one of ``name``, ``folder`` and ``csv``."""

    name: str | None = option(
        "data set: embedded/..., or a name in the store; embedded/digit_products if there is no "
        "folder and no csv",
        None,
    )
    config: str | None = option("configuration of a stored data set", None)
    splits: list[str] = option("splits of the data set that are taken; empty: all", [])
    folder: str | None = option("folder of images; a sub-folder is a label", None)
    csv: str | None = option("file with a line for each image; paths are relative to it", None)
    image: str = option("column of images", "image")
    label: str = option("column of labels: numbers or names", "label")
    title: str = option("column of titles; read if text.mode asks for them", "title")
    min_per_label: int = option("items of a label with fewer are left out", 1, ge=1)
    on_bad: str = option(
        "an image that cannot be read: fail, or skip (counted and listed)",
        "fail",
        choices=("fail", "skip"),
    )
    batch_size: int = option("images of an update", 64, ge=1)
    per_class: int = option("images of each label in a batch; 0: as they come", 0, ge=0)
    balanced: bool = option("every label equally often", False)
    num_classes: int | None = option("labels that are trained on; from the data", None)

    def __post_init__(self) -> None:
        given = [key for key in ("name", "folder", "csv") if getattr(self, key)]
        if len(given) > 1:
            raise ConfigError(
                f"data.{' and data.'.join(given)} are both set; set one, and the others to null"
            )
        if not given:
            self.name = DEFAULT_DATA
        if (self.config or self.splits) and not self.name:
            raise ConfigError("data.config and data.splits belong to data.name, which is not set")
        if self.per_class and self.batch_size % self.per_class:
            raise ConfigError(
                f"data.batch_size is {self.batch_size}, which is no multiple of data.per_class "
                f"{self.per_class}"
            )
        if self.per_class and self.balanced:
            raise ConfigError(
                "data.per_class and data.balanced both say how batches are made; set one"
            )


@dataclass
class DataloaderConfig:
    """How images are read on this machine; ``configs/dataloader/`` has one file for each."""

    root: str | None = option("what data.folder and data.csv are relative to; null: here", None)
    num_workers: int = option("processes that read ahead; 0: none", 0, ge=0)
    cache: str = option(
        "keep decoded and resized images: none, memory, or disk (a memory-mapped file)",
        "none",
        choices=("none", "memory", "disk"),
    )
    eval_batch_size: int = option("images of an evaluation batch", 256, ge=1)


@dataclass
class TransformsConfig:
    """From a file to a network's pixels, and what changes in training."""

    preprocessing: PreprocessingConfig = nested(PreprocessingConfig)
    augmentation: AugmentationConfig = nested(AugmentationConfig)

    def __post_init__(self) -> None:
        if self.augmentation.mixup_alpha or self.augmentation.cutmix_alpha:
            raise ConfigError(
                "transforms.augmentation mixes images (mixup_alpha, cutmix_alpha); an embedding has "
                "one label: set both to 0"
            )


@dataclass
class FoldsConfig:
    """What is held out, in turn."""

    kind: str = option(
        "group: a label is in one fold only (open set); stratified: every fold has each label; "
        "given: one fold, the split `query` of the data set",
        "group",
        choices=("group", "stratified", "given"),
    )
    count: int = option("folds of group and stratified", 3, ge=2)
    seed: int = option("of the deal; the folds of an experiment are the same for every seed", 0)
    only: int | None = option("train this fold alone; null: each of them", None, ge=0)
    manifest: str | None = option("file of frozen folds to read; null: deal", None)
    query: str = option("given: the split that is held out, and asks all others", "test")

    def __post_init__(self) -> None:
        if self.kind == "given" and (self.manifest or self.only):
            raise ConfigError(
                "folds.kind=given has one fold, 0; folds.manifest and folds.only do not belong to it"
            )
        if self.kind != "given" and self.only is not None and self.only >= self.count:
            raise ConfigError(f"folds.only is {self.only}; expected 0 to {self.count - 1}")


@dataclass
class MatchingConfig:
    """How embeddings become lists of matches."""

    neighbors: int = option("candidates fetched for each item", 50, ge=1)
    beta: float = option("of F-beta, which the threshold is picked by", 1.0, gt=0)
    min_matches: int = option("items a list has at least, itself included", 1, ge=1)
    expansion: int = option("neighbours added to each query; 0: no query expansion", 0, ge=0)
    alpha: float = option("query expansion: weight of a neighbour is its cosine ^ alpha", 3.0, ge=0)


@dataclass
class TextConfig:
    """What titles add."""

    mode: str = option(
        "none; concat: one embedding of image and title; union: a match by either",
        "none",
        choices=("none", "concat", "union"),
    )
    encoder: str = option("tfidf, or transformers", "tfidf", choices=("tfidf", "transformers"))
    model: str | None = option("transformers: a name in the store, or a folder", None)
    analyzer: str = option("tfidf: what is counted", "char_wb", choices=("word", "char", "char_wb"))
    ngrams: list[int] = option("tfidf: shortest and longest n-gram", [2, 4], ge=1)
    max_features: int = option("tfidf: the most frequent n-grams that are kept", 20_000, ge=1)
    weight: float = option("concat: share of the title in the cosine", 0.5, gt=0, lt=1)
    batch_size: int = option("transformers: titles at a time", 64, ge=1)

    def __post_init__(self) -> None:
        if self.mode != "none" and self.encoder == "transformers" and not self.model:
            raise ConfigError("text.encoder=transformers needs text.model, a name or a folder")
        if len(self.ngrams) != 2 or self.ngrams[0] > self.ngrams[1]:
            raise ConfigError(
                f"text.ngrams is {self.ngrams}; expected the shortest and the longest"
            )


@dataclass
class PicturesConfig:
    """What is drawn; the numbers need no picture."""

    draw: bool = option("draw pictures after each fold and at the end", True)
    queries: int = option("rows of a neighbour sheet", 8, ge=1)
    neighbors: int = option("neighbours in a row", 6, ge=1)
    points: int = option("most points of an embedding map", 1500, ge=3)


@dataclass
class Config:
    """Everything about a product matching."""

    seed: int = option("seed of everything random but the folds", 0, ge=0)
    output_dir: str | None = option(
        "where runs go: a folder, or s3://bucket/prefix (a copy); null: assets/outputs", None
    )
    data: DataConfig = nested(DataConfig)
    dataloader: DataloaderConfig = nested(DataloaderConfig)
    transforms: TransformsConfig = nested(TransformsConfig)
    model: dict[str, Any] = option("network: images to embeddings, a section with _target_", {})
    loss: dict[str, Any] = option("loss of embeddings and labels, a section with _target_", {})
    loss_lr_multiplier: float = option(
        "how much faster class centres and proxies learn than the network", 10.0, gt=0
    )
    optimizer: OptimizerConfig = nested(OptimizerConfig)
    scheduler: ScheduleConfig = nested(ScheduleConfig)
    trainer: TrainerConfig = nested(TrainerConfig)
    folds: FoldsConfig = nested(FoldsConfig)
    matching: MatchingConfig = nested(MatchingConfig)
    text: TextConfig = nested(TextConfig)
    pictures: PicturesConfig = nested(PicturesConfig)

    def __post_init__(self) -> None:
        data = self.data
        for key in ("model", "loss"):
            section = getattr(self, key)
            if TARGET not in section:
                raise ConfigError(
                    f"{key} has no {TARGET}; choose a file of configs/{key}/, e.g. {key}=arcface"
                )
        if self.folds.kind == "given" and not data.name:
            raise ConfigError("folds.kind=given needs the splits of a data set: set data.name")
        if self.text.mode != "none" and data.folder:
            raise ConfigError(
                f"text.mode is {self.text.mode}, and a folder has no titles; list images and titles "
                "with data.csv"
            )
        if self.matching.expansion > self.matching.neighbors:
            raise ConfigError(
                f"matching.expansion is {self.matching.expansion}, more than the "
                f"{self.matching.neighbors} neighbours that matching.neighbors fetches"
            )
