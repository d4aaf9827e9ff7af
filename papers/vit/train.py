"""Train a Vision Transformer from scratch (Dosovitskiy et al. 2020, arXiv 2010.11929).

python -m papers.vit.train                                    # digits, offline
python -m papers.vit.train --config configs/cifar10_tiny.yaml # ViT-Tiny on CIFAR-10
python -m papers.vit.train --help
"""

from dataclasses import dataclass

from common.config import RunContext, launch, nested
from common.data.augmentation import CropFlipConfig, crop_flip
from common.data.labelled_images import LabelledImagesConfig, load_labelled_images
from common.training import ExperimentConfig, finish, fit, open_run
from papers.vit.model import ClassificationTask, ModelConfig
from papers.vit.pretrained import read_pretrained


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
        name = config.model.weights if run.resume_from is None else None
        pretrained = None if name is None else read_pretrained(name)
        task = ClassificationTask(config.model, pretrained)
        trainer = fit(task, data, config, context, run)
        metrics = trainer.evaluate(task, data.test)
        finish(task, trainer, run, metrics)
        return metrics["test/accuracy"]


if __name__ == "__main__":
    launch(train, Config, __file__)
