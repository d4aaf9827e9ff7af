"""Measure a trained VAE again, as the end of its training did.

python -m papers.vae.evaluate                                  # the newest run
python -m papers.vae.evaluate --run RUN importance_samples=1000
"""

from common.config import RunContext, launch
from common.data.labelled_images import load_labelled_images
from common.training import Trainer, report, restore_task
from papers.vae.model import VAETask
from papers.vae.train import Config, measure


def evaluate(config: Config, context: RunContext) -> float:
    """Load a run's weights and measure them; returns the ELBO of the test split in nats."""
    data = load_labelled_images(config.data, context, config.seed)
    task = restore_task(VAETask(config.model), data.info, config, context)
    metrics = measure(task, Trainer(config.trainer), data, config, context)
    report(metrics, context)
    return metrics["test/elbo"]


if __name__ == "__main__":
    launch(evaluate, Config, __file__, needs_run=True)
