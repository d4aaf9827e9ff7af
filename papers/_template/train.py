"""Train "A Template" (arXiv 1801.00000) to classify images.

python -m papers._template.train                                       # digits, offline
python -m papers._template.train --config configs/fashion_mnist.yaml   # from the data store
python -m papers._template.train --help
"""

from dataclasses import dataclass

from common.config import RunContext, launch, nested
from common.data.labelled_images import LabelledImagesConfig
from common.training import ExperimentConfig, finish, fit, open_run
from papers._template.dataset import build_data
from papers._template.model import ModelConfig, TemplateTask


@dataclass
class Config(ExperimentConfig):
    """Everything about a run."""

    model: ModelConfig = nested(ModelConfig)
    data: LabelledImagesConfig = nested(LabelledImagesConfig)


def train(config: Config, context: RunContext) -> float:
    """Train, score on the test split, report; returns the accuracy."""
    with open_run(config, context) as run:
        data = build_data(config.data, context, config.seed)
        task = TemplateTask(config.model)
        trainer = fit(task, data, config, context, run)
        metrics = trainer.evaluate(task, data.test)
        finish(task, trainer, run, metrics)
        return metrics["test/accuracy"]


if __name__ == "__main__":
    launch(train, Config, __file__)
