"""Score a trained "A Template" on its test split, as the end of its training did.

python -m papers._template.evaluate                # the newest run
python -m papers._template.evaluate --checkpoint best
"""

from common.config import RunContext, launch
from common.training import Trainer, report, restore_task
from papers._template.dataset import build_data
from papers._template.model import TemplateTask
from papers._template.train import Config


def evaluate(config: Config, context: RunContext) -> float:
    """Load a run's weights and score them; returns the accuracy."""
    data = build_data(config.data, context, config.seed)
    task = TemplateTask(config.model)
    restore_task(task, data.info, config, context)
    metrics = Trainer(config.trainer).evaluate(task, data.test)
    report(metrics, context)
    return metrics["test/accuracy"]


if __name__ == "__main__":
    launch(evaluate, Config, __file__, needs_run=True)
