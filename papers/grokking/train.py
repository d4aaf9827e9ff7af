"""Train a small Transformer far beyond overfitting: "Grokking" (Power et al. 2022, 2201.02177).

python -m papers.grokking.train                                     # a minute: see config.yaml
python -m papers.grokking.train --config configs/division_97.yaml   # division mod 97
python -m papers.grokking.train --help
"""

from dataclasses import dataclass

from common.config import RunContext, launch, nested
from common.training import ExperimentConfig, finish, fit, open_run
from papers.grokking.dataset import DataConfig, build_data
from papers.grokking.delay import grokking_steps
from papers.grokking.model import EquationTask, ModelConfig
from papers.grokking.plot import plot_grokking


@dataclass
class Config(ExperimentConfig):
    """Everything about a run."""

    model: ModelConfig = nested(ModelConfig)
    data: DataConfig = nested(DataConfig)


def train(config: Config, context: RunContext) -> float:
    """Train, measure what was not trained on and when it was understood; returns the accuracy."""
    with open_run(config, context) as run:
        data = build_data(config.data, context, config.seed)
        task = EquationTask(config.model)
        trainer = fit(task, data, config, context, run, units="equations")
        metrics = trainer.evaluate(task, data.test)
        if trainer.is_main:
            metrics |= grokking_steps(run.directory)
            plot_grokking(run.directory, run.plots / "grokking.png")
        finish(task, trainer, run, metrics)
        return metrics["test/accuracy"]


if __name__ == "__main__":
    launch(train, Config, __file__)
