"""Train a residual network on small images (He et al. 2015, arXiv 1512.03385, section 4.2).

python -m papers.resnet.train                                         # digits, offline
python -m papers.resnet.train --config configs/cifar10_resnet20.yaml  # the paper's recipe
python -m papers.resnet.train --help
"""

from dataclasses import dataclass

from common.config import RunContext, launch, nested
from common.data.augmentation import CropFlipConfig, crop_flip
from common.data.labelled_images import LabelledImagesConfig, load_labelled_images
from common.training import ExperimentConfig, finish, fit, open_run
from papers.resnet.model import ClassificationTask, ModelConfig


@dataclass
class Config(ExperimentConfig):
    """Everything about a run."""

    model: ModelConfig = nested(ModelConfig)
    data: LabelledImagesConfig = nested(LabelledImagesConfig)
    augment: CropFlipConfig = nested(CropFlipConfig)


def train(config: Config, context: RunContext) -> float:
    """Train, score the test split, report; returns the accuracy."""
    with open_run(config, context) as run:
        transform = crop_flip(config.augment)
        data = load_labelled_images(config.data, context, config.seed, transform)
        task = ClassificationTask(config.model)
        trainer = fit(task, data, config, context, run)
        metrics = trainer.evaluate(task, data.test)
        finish(task, trainer, run, metrics)
        return metrics["test/accuracy"]


if __name__ == "__main__":
    launch(train, Config, __file__)
