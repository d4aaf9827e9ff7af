"""Measure a trained diffusion model again, as the end of its training did.

python -m papers.ddpm.evaluate                              # the newest run
python -m papers.ddpm.evaluate --run RUN sampling.steps=50  # a shorter chain
"""

from common.config import RunContext, launch
from common.data.labelled_images import load_labelled_images
from common.training import Trainer, report, restore_task
from papers.ddpm.model import DiffusionTask
from papers.ddpm.train import Config, measure


def evaluate(config: Config, context: RunContext) -> float:
    """Load a run's averaged weights and measure them; returns the Fréchet distance of samples."""
    data = load_labelled_images(config.data, context, config.seed)
    task = DiffusionTask(config.model, config.diffusion)
    task = restore_task(task, data.info, config, context)
    metrics, _ = measure(task, Trainer(config.trainer), data, config, context)
    report(metrics, context)
    return metrics["test/frechet_distance"]


if __name__ == "__main__":
    launch(evaluate, Config, __file__, needs_run=True)
