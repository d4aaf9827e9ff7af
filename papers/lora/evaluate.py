"""Measure an adapted language model on its held-out text, as the end of its training did.

python -m papers.lora.evaluate                 # the newest run
python -m papers.lora.evaluate --run RUN
"""

from common.config import RunContext, launch
from common.training import Trainer, report, restore_task
from papers.gpt2.dataset import build_data
from papers.lora.model import LoRATask
from papers.lora.train import Config, measure


def evaluate(config: Config, context: RunContext) -> float:
    """Load a run's weights and measure them; returns the loss in nats a token."""
    if context.run_dir is None:
        raise ValueError("the context names no run; make it with load_run_config")
    data = build_data(config.data, context, context.run_dir, config.seed)
    task = restore_task(LoRATask(config.model, config.lora), data.info, config, context)
    metrics = measure(task, Trainer(config.trainer), data)
    report(metrics, context)
    return metrics["test/loss"]


if __name__ == "__main__":
    launch(evaluate, Config, __file__, needs_run=True)
