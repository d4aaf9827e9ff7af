"""Adapt a language model with LoRA (Hu et al. 2021, arXiv 2106.09685).

python -m papers.lora.train                                          # trains a base first; offline
python -m papers.lora.train --config configs/captions.yaml base.run=RUN   # RUN: of papers.gpt2
python -m papers.lora.train lora.rank=0                              # fine-tuning, to compare
"""

import sys
from dataclasses import dataclass

from loguru import logger

from common.config import RunContext, launch, nested
from common.data.info import DataSplits
from common.training import ExperimentConfig, Trainer, finish, fit, open_run
from common.utils.files import atomic_write_text
from papers.gpt2.dataset import TextConfig, build_data
from papers.gpt2.model import ModelConfig
from papers.gpt2.sampling import SampleConfig, continue_text
from papers.lora.adapters import trained_share, without_adapters
from papers.lora.base import BaseConfig, prepare_base
from papers.lora.model import LoRAConfig, LoRATask
from papers.lora.peft_files import save_adapter


@dataclass
class Config(ExperimentConfig):
    """Everything about a run."""

    model: ModelConfig = nested(ModelConfig)
    lora: LoRAConfig = nested(LoRAConfig)
    base: BaseConfig = nested(BaseConfig)
    data: TextConfig = nested(TextConfig)
    sample: SampleConfig = nested(SampleConfig)


def train(config: Config, context: RunContext) -> float:
    """Adapt, measure, save the adapter; returns the loss in nats a token of held-out text."""
    with open_run(config, context) as run:
        base = prepare_base(config.base, config.model, context, run, config.seed, config.trainer)
        data = build_data(config.data, context, run.directory, config.seed)
        task = LoRATask(config.model, config.lora, base)
        trainer = fit(task, data, config, context, run, units="tokens")
        metrics = measure(task, trainer, data)
        if trainer.is_main:
            logger.info(
                f"trained {metrics['parameters/trained']:,.0f} parameters, "
                f"{metrics['parameters/trained_share']:.2%} of the base's"
            )
            text = continue_text(task.model, data.tokenizer, config.sample, config.seed)
            atomic_write_text(run.directory / "sample.txt", text + "\n")
            sys.stdout.write(text + "\n\n")
            if config.lora.rank:
                save_adapter(task.model, run.directory / "adapter", config.base.run or "")
        finish(task, trainer, run, metrics)
        return metrics["test/loss"]


def measure(task: LoRATask, trainer: Trainer, data: DataSplits) -> dict[str, float]:
    """Losses of the adapted model and of its base, and how much of it was trained."""
    metrics = trainer.evaluate(task, data.test)
    if task.lora.rank:
        with without_adapters(task):
            metrics |= trainer.evaluate(task, data.test, prefix="base")
    trained, whole = trained_share(task)
    return metrics | {"parameters/trained": trained, "parameters/trained_share": trained / whole}


if __name__ == "__main__":
    launch(train, Config, __file__)
