"""Measure a trained GPT-2 on its held-out text, as the end of its training did.

python -m papers.gpt2.evaluate                 # the newest run
python -m papers.gpt2.evaluate --run RUN
"""

from common.config import RunContext, launch
from common.training import Trainer, report, restore_task
from papers.gpt2.dataset import build_data
from papers.gpt2.model import LanguageModelTask
from papers.gpt2.train import Config


def evaluate(config: Config, context: RunContext) -> float:
    """Load a run's weights and measure them; returns the loss in nats a token."""
    if context.run_dir is None:
        raise ValueError("the context names no run; make it with load_run_config")
    data = build_data(config.data, context, context.run_dir, config.seed)
    task = restore_task(LanguageModelTask(config.model), data.info, config, context)
    metrics = Trainer(config.trainer).evaluate(task, data.test)
    report(metrics, context)
    return metrics["test/loss"]


if __name__ == "__main__":
    launch(evaluate, Config, __file__, needs_run=True)
