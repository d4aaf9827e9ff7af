"""What retrieval reaches without training, beside which a trained network's number is to be read.

``baseline/raw_pixels``: the nearest image by the cosine of its pixels. ``baseline/untrained``: the
network as it is initialised from the run's seed. Both are precision at 1 on the test images, and
both are measured with every run, so that they stand beside its result.
"""

from collections.abc import Callable

from common.config import RunContext
from common.data.info import DataSplits
from common.training import EmbeddingTask, ExperimentConfig, Trainer, retrieval_of
from common.training.rng import preserved_rng
from common.utils.seeding import seed_everything


def baselines(
    make: Callable[[], EmbeddingTask],
    trainer: Trainer,
    data: DataSplits,
    config: ExperimentConfig,
    context: RunContext,
) -> dict[str, float]:
    """Precision at 1 of pixels and of the untrained network.

    Args:
        make: The task, not configured.
        trainer: Evaluates it.
        data: Whose test split is searched; it is in memory.
        config: The run's, for its seed.
        context: The run's.
    """
    tensors = data.test.tensors
    pixels = tensors["image"].flatten(1).float()
    task = untrained(make, data, config, context)
    found = trainer.evaluate(task, data.test)
    return {
        "baseline/raw_pixels": retrieval_of(pixels, tensors["label"]).precision_at_1,
        "baseline/untrained": found["test/precision_at_1"],
    }


def untrained(
    make: Callable[[], EmbeddingTask],
    data: DataSplits,
    config: ExperimentConfig,
    context: RunContext,
) -> EmbeddingTask:
    """The task with the weights its seed gives; the generators stay where they were."""
    with preserved_rng():
        seed_everything(config.seed, config.trainer.deterministic)
        task = make()
        task.configure(data.info, context)
    return task.eval()
