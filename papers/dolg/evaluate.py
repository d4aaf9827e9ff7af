"""Search with a trained DOLG again, as the end of its training did, or with several sizes.

python -m papers.dolg.evaluate                              # the newest run
python -m papers.dolg.evaluate scales=[0.7071,1.0,1.4142]   # section 4.1
python -m papers.dolg.evaluate --run RUN --checkpoint best
"""

from common.config import RunContext, launch
from common.training import Trainer, report, restore_task
from papers.dolg.train import Config, build_data, build_task, measure


def evaluate(config: Config, context: RunContext) -> float:
    """Load a run's weights and measure them; returns precision at 1."""
    data = build_data(config, context)
    task = restore_task(build_task(config, starts=False), data.info, config, context)
    metrics = measure(task, Trainer(config.trainer), data, config, context)
    report(metrics, context)
    return metrics["test/precision_at_1"]


if __name__ == "__main__":
    launch(evaluate, Config, __file__, needs_run=True)
