"""Train a diffusion model: "Denoising Diffusion Probabilistic Models" (Ho et al. 2020, 2006.11239).

python -m papers.ddpm.train                                      # 8 x 8 digits, offline
python -m papers.ddpm.train --config configs/fashion_mnist_reduced.yaml
python -m papers.ddpm.train --help
"""

from dataclasses import dataclass

from torch import Tensor

from common.config import RunContext, launch, nested, option
from common.data.info import DataSplits
from common.data.labelled_images import LabelledImagesConfig, load_labelled_images
from common.training import EMA, ExperimentConfig, Trainer, finish, fit, open_run
from common.visualization import plot_image_grid
from papers.ddpm.model import DiffusionConfig, DiffusionTask
from papers.ddpm.quality import SamplingConfig, sample_quality
from papers.ddpm.unet import UNetConfig

_SHOWN = 64


@dataclass
class Config(ExperimentConfig):
    """Everything about a run."""

    ema_decay: float = option(
        "of the averaged weights that are evaluated and kept (section 4)", 0.9999, ge=0, lt=1
    )
    model: UNetConfig = nested(UNetConfig)
    diffusion: DiffusionConfig = nested(DiffusionConfig)
    data: LabelledImagesConfig = nested(LabelledImagesConfig)
    sampling: SamplingConfig = nested(SamplingConfig)


def train(config: Config, context: RunContext) -> float:
    """Train, take the averaged weights, draw samples; returns their Fréchet distance."""
    with open_run(config, context) as run:
        data = load_labelled_images(config.data, context, config.seed)
        task = DiffusionTask(config.model, config.diffusion)
        average = EMA(config.ema_decay)
        trainer = fit(task, data, config, context, run, callbacks=[average])
        average.copy_to(task)
        metrics, samples = measure(task, trainer, data, config, context)
        if trainer.is_main:
            plot_image_grid(samples[:_SHOWN], run.plots / "samples.png")
        finish(task, trainer, run, metrics)
        return metrics["test/frechet_distance"]


def measure(
    task: DiffusionTask,
    trainer: Trainer,
    data: DataSplits,
    config: Config,
    context: RunContext,
) -> tuple[dict[str, float], Tensor]:
    """The loss on the test split, and how far samples are from the data; and the samples."""
    limit, count, steps = None, config.sampling.samples, config.sampling.steps
    if context.dry_run:
        limit, count, steps = 1, 2, 1
    metrics = trainer.evaluate(task, data.test, limit=limit)
    samples = task.sample(count, config.sampling.seed, steps=steps)
    quality = sample_quality(samples, data)
    return metrics | {f"test/{name}": value for name, value in quality.items()}, samples


if __name__ == "__main__":
    launch(train, Config, __file__)
