"""Score a trained Vision Transformer on its test split, as the end of its training did.

python -m papers.vit.evaluate                    # the newest run
python -m papers.vit.evaluate --run RUN --checkpoint best
"""

from common.config import RunContext, launch
from common.data.labelled_images import load_labelled_images
from common.training import Trainer, report, restore_task
from papers.vit.model import ClassificationTask
from papers.vit.train import Config


def evaluate(config: Config, context: RunContext) -> float:
    """Load a run's weights and score them; returns the accuracy."""
    data = load_labelled_images(config.data, context, config.seed)
    task = restore_task(ClassificationTask(config.model), data.info, config, context)
    metrics = Trainer(config.trainer).evaluate(task, data.test)
    report(metrics, context)
    return metrics["test/accuracy"]


if __name__ == "__main__":
    launch(evaluate, Config, __file__, needs_run=True)
