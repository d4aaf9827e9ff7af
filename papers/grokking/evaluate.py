"""Measure a trained model again on the equations it was not trained on.

python -m papers.grokking.evaluate                # the newest run
python -m papers.grokking.evaluate --run RUN --checkpoint best
"""

from common.config import RunContext, launch
from common.training import Trainer, report, restore_task
from papers.grokking.dataset import build_data
from papers.grokking.delay import grokking_steps
from papers.grokking.model import EquationTask
from papers.grokking.train import Config


def evaluate(config: Config, context: RunContext) -> float:
    """Load a run's weights, measure them, and read from its record when it understood."""
    data = build_data(config.data, context, config.seed)
    task = restore_task(EquationTask(config.model), data.info, config, context)
    metrics = Trainer(config.trainer).evaluate(task, data.test)
    if context.run_dir is not None:
        metrics |= grokking_steps(context.run_dir)
    report(metrics, context)
    return metrics["test/accuracy"]


if __name__ == "__main__":
    launch(evaluate, Config, __file__, needs_run=True)
