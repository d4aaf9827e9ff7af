"""Learn embeddings with DOLG (Yang et al. 2021, arXiv 2108.02927) and search with them.

python -m papers.dolg.train                          # digits as products, offline
python -m papers.dolg.train model.branches=global    # without the local branch
python -m papers.dolg.train --help
"""

from dataclasses import dataclass

from common.config import RunContext, launch, nested, option
from common.data import OpenSetImagesConfig, load_open_set_images
from common.data.augmentation import CropFlipConfig, crop_flip
from common.data.info import DataSplits
from common.training import ExperimentConfig, Trainer, finish, fit, open_run
from common.utils.errors import ConfigError
from papers.arcface.baselines import baselines
from papers.arcface.model import LossConfig, check_pairs
from papers.dolg.model import DolgTask, ModelConfig


@dataclass
class Config(ExperimentConfig):
    """Everything about a run."""

    model: ModelConfig = nested(ModelConfig)
    loss: LossConfig = nested(LossConfig)
    data: OpenSetImagesConfig = nested(OpenSetImagesConfig)
    augment: CropFlipConfig = nested(CropFlipConfig)
    scales: list[float] = option("sizes at which an image is embedded to be searched", [1.0], gt=0)

    def __post_init__(self) -> None:
        if not self.scales:
            raise ConfigError("scales is empty; expected factors of an image's size, e.g. [1.0]")
        check_pairs(self.loss, self.data)


def train(config: Config, context: RunContext) -> float:
    """Train, search among the test images, report; returns precision at 1."""
    with open_run(config, context) as run:
        data = build_data(config, context)
        task = build_task(config, starts=run.resume_from is None)
        trainer = fit(task, data, config, context, run)
        metrics = measure(task, trainer, data, config, context)
        finish(task, trainer, run, metrics)
        return metrics["test/precision_at_1"]


def build_data(config: Config, context: RunContext) -> DataSplits:
    """The loaders; training images are moved as ``augment`` says."""
    return load_open_set_images(config.data, context, config.seed, crop_flip(config.augment))


def build_task(config: Config, *, starts: bool) -> DolgTask:
    """The task of a configuration, not configured; ``starts`` as for ``DolgTask``."""
    return DolgTask(config.model, config.loss, config.scales, starts=starts)


def measure(
    task: DolgTask, trainer: Trainer, data: DataSplits, config: Config, context: RunContext
) -> dict[str, float]:
    """Retrieval on the test split, and its baselines."""
    metrics = trainer.evaluate(task, data.test)
    return metrics | baselines(
        lambda: build_task(config, starts=True), trainer, data, config, context
    )


if __name__ == "__main__":
    launch(train, Config, __file__)
