"""Learn embeddings with ArcFace (Deng et al. 2018, arXiv 1801.07698) and search with them.

python -m papers.arcface.train                                  # digits as products, offline
python -m papers.arcface.train --config configs/omniglot.yaml   # characters of unseen alphabets
python -m papers.arcface.train loss.kind=softmax loss.margin=null
python -m papers.arcface.train --help
"""

from dataclasses import dataclass

from torch import Tensor

from common.config import RunContext, launch, nested, option
from common.data import OpenSetImagesConfig, load_open_set_images
from common.data.augmentation import CropFlipConfig, crop_flip
from common.data.info import DataSplits
from common.training import ExperimentConfig, Trainer, finish, fit, open_run
from common.utils.errors import ConfigError
from papers.arcface.baselines import baselines
from papers.arcface.model import ArcFaceTask, LossConfig, ModelConfig, check_pairs
from papers.arcface.subcenters import dominant_angles, suspicion, with_wrong_labels


@dataclass
class Config(ExperimentConfig):
    """Everything about a run."""

    model: ModelConfig = nested(ModelConfig)
    loss: LossConfig = nested(LossConfig)
    data: OpenSetImagesConfig = nested(OpenSetImagesConfig)
    augment: CropFlipConfig = nested(CropFlipConfig)
    label_noise: float = option(
        "share of training labels that are made wrong, to see what sub-centers find",
        0.0,
        ge=0,
        lt=1,
    )

    def __post_init__(self) -> None:
        check_pairs(self.loss, self.data)
        if self.label_noise and self.data.per_class:
            raise ConfigError("label_noise and data.per_class exclude each other; set one to 0")


def train(config: Config, context: RunContext) -> float:
    """Train, search among the test images, report; returns precision at 1."""
    with open_run(config, context) as run:
        data, wrong = build_data(config, context)
        task = ArcFaceTask(config.model, config.loss)
        trainer = fit(task, data, config, context, run)
        metrics = measure(task, trainer, data, wrong, config, context)
        finish(task, trainer, run, metrics)
        return metrics["test/precision_at_1"]


def build_data(config: Config, context: RunContext) -> tuple[DataSplits, Tensor]:
    """The loaders, and which training labels are wrong by intent, ``(N,)``."""
    transform = crop_flip(config.augment)
    data = load_open_set_images(config.data, context, config.seed, transform)
    return with_wrong_labels(data, config.label_noise, config.seed)


def measure(
    task: ArcFaceTask,
    trainer: Trainer,
    data: DataSplits,
    wrong: Tensor,
    config: Config,
    context: RunContext,
) -> dict[str, float]:
    """Retrieval on the test split, its baselines, and what sub-centers hold for mislabelled."""
    metrics = trainer.evaluate(task, data.test)
    metrics |= baselines(
        lambda: ArcFaceTask(config.model, config.loss), trainer, data, config, context
    )
    if config.loss.num_centers > 1:
        metrics |= suspicion(dominant_angles(task, trainer, data), wrong)
    return metrics


if __name__ == "__main__":
    launch(train, Config, __file__)
