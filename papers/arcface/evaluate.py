"""Search with a trained network again, as the end of its training did.

python -m papers.arcface.evaluate                    # the newest run
python -m papers.arcface.evaluate --run RUN --checkpoint best
"""

from common.config import RunContext, launch
from common.training import Trainer, report, restore_task
from papers.arcface.model import ArcFaceTask
from papers.arcface.train import Config, build_data, measure


def evaluate(config: Config, context: RunContext) -> float:
    """Load a run's weights and measure them; returns precision at 1."""
    data, wrong = build_data(config, context)
    task = restore_task(ArcFaceTask(config.model, config.loss), data.info, config, context)
    metrics = measure(task, Trainer(config.trainer), data, wrong, config, context)
    report(metrics, context)
    return metrics["test/precision_at_1"]


if __name__ == "__main__":
    launch(evaluate, Config, __file__, needs_run=True)
