"""Train a GPT-2 on a text: "Language Models are Unsupervised Multitask Learners" (2019).

python -m papers.gpt2.train                                       # dates, offline
python -m papers.gpt2.train --config configs/shakespeare_cpu.yaml
python -m papers.gpt2.train --help
"""

import sys
from dataclasses import dataclass

from common.config import RunContext, launch, nested
from common.training import ExperimentConfig, finish, fit, open_run
from common.utils.files import atomic_write_text
from papers.gpt2.dataset import TextConfig, build_data
from papers.gpt2.model import LanguageModelTask, ModelConfig
from papers.gpt2.sampling import SampleConfig, continue_text


@dataclass
class Config(ExperimentConfig):
    """Everything about a run."""

    model: ModelConfig = nested(ModelConfig)
    data: TextConfig = nested(TextConfig)
    sample: SampleConfig = nested(SampleConfig)


def train(config: Config, context: RunContext) -> float:
    """Train, measure the held-out text, write a sample; returns the loss in nats a token."""
    with open_run(config, context) as run:
        data = build_data(config.data, context, run.directory, config.seed)
        task = LanguageModelTask(config.model)
        trainer = fit(task, data, config, context, run, units="tokens")
        metrics = trainer.evaluate(task, data.test)
        if trainer.is_main:
            text = continue_text(task.model, data.tokenizer, config.sample, config.seed)
            atomic_write_text(run.directory / "sample.txt", text + "\n")
            sys.stdout.write(text + "\n\n")
        finish(task, trainer, run, metrics)
        return metrics["test/loss"]


if __name__ == "__main__":
    launch(train, Config, __file__)
