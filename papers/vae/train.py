"""Train a variational auto-encoder: "Auto-Encoding Variational Bayes" (Kingma & Welling, 1312.6114).

python -m papers.vae.train                                       # 8 x 8 digits, offline
python -m papers.vae.train --config configs/fashion_mnist.yaml
python -m papers.vae.train --help
"""

from dataclasses import dataclass

import torch
from einops import rearrange

from common.config import RunContext, launch, nested, option
from common.data.info import DataSplits
from common.data.labelled_images import LabelledImagesConfig, load_labelled_images
from common.training import ExperimentConfig, Trainer, finish, fit, open_run
from common.utils import Run
from common.visualization import plot_image_grid
from papers.vae.bounds import importance_weighted_bound
from papers.vae.latent_space import prior_samples
from papers.vae.model import ModelConfig, VAETask, to_vectors

_PAIRS_A_ROW = 12


@dataclass
class Config(ExperimentConfig):
    """Everything about a run."""

    importance_samples: int = option(
        "samples of z an image for the importance-weighted bound (k)", 100, ge=1
    )
    model: ModelConfig = nested(ModelConfig)
    data: LabelledImagesConfig = nested(LabelledImagesConfig)


def train(config: Config, context: RunContext) -> float:
    """Train, measure both bounds, draw; returns the ELBO of the test split in nats."""
    with open_run(config, context) as run:
        data = load_labelled_images(config.data, context, config.seed)
        task = VAETask(config.model)
        trainer = fit(task, data, config, context, run)
        metrics = measure(task, trainer, data, config, context)
        if trainer.is_main:
            draw(task, data, run)
        finish(task, trainer, run, metrics)
        return metrics["test/elbo"]


def measure(
    task: VAETask, trainer: Trainer, data: DataSplits, config: Config, context: RunContext
) -> dict[str, float]:
    """The ELBO with its two terms, the units in use, and the importance-weighted bound."""
    limit = 1 if context.dry_run else None
    metrics = trainer.evaluate(task, data.test, limit=limit)
    images = data.test.tensors["image"][: 8 if context.dry_run else None]
    device = next(task.parameters()).device
    batches = (to_vectors(batch.to(device)) for batch in images.split(1000))
    bound = importance_weighted_bound(task.model, batches, config.importance_samples)
    return metrics | {"test/importance_weighted_bound": bound}


def draw(task: VAETask, data: DataSplits, run: Run) -> None:
    """Test images above their reconstructions, and images of the prior."""
    originals = data.test.tensors["image"][: 2 * _PAIRS_A_ROW]
    pairs = torch.stack([originals.float() / 255.0, task.reconstruct(originals)])
    rows = rearrange(
        pairs[:, : len(originals) // _PAIRS_A_ROW * _PAIRS_A_ROW],
        "pair (row column) c h w -> (row pair column) c h w",
        column=_PAIRS_A_ROW,
    )
    plot_image_grid(rows, run.plots / "reconstructions.png", columns=_PAIRS_A_ROW)
    plot_image_grid(prior_samples(task, 96, seed=0), run.plots / "samples.png", columns=12)


if __name__ == "__main__":
    launch(train, Config, __file__)
