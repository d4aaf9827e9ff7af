"""Train a Transformer to translate: "Attention Is All You Need" (Vaswani et al. 2017, 1706.03762).

python -m papers.attention_is_all_you_need.train                                  # dates, offline
python -m papers.attention_is_all_you_need.train --config configs/multi30k.yaml   # en -> de
python -m papers.attention_is_all_you_need.train --help
"""

import sys
from dataclasses import dataclass

from loguru import logger

from common.config import RunContext, Source, launch, nested, option
from common.data.pairs import TextPairs
from common.data.tokenization import Tokenizer
from common.training import (
    ExperimentConfig,
    average_checkpoints,
    finish,
    fit,
    open_run,
    step_checkpoints,
)
from common.utils import Run
from common.utils.checkpoint import load_weights
from common.visualization import text_table
from papers.attention_is_all_you_need.dataset import DataConfig, build_data
from papers.attention_is_all_you_need.decoding import DecodeConfig, score, translate
from papers.attention_is_all_you_need.model import ModelConfig, TranslationTask, peak_learning_rate


@dataclass
class Config(ExperimentConfig):
    """Everything about a run."""

    label_smoothing: float = option("epsilon_ls of section 5.4", 0.1, ge=0, lt=1)
    average: int = option("last checkpoints whose weights are averaged (6.1)", 5, ge=1)
    model: ModelConfig = nested(ModelConfig)
    data: DataConfig = nested(DataConfig)
    decode: DecodeConfig = nested(DecodeConfig)


def train(config: Config, context: RunContext) -> float:
    """Train, average, translate the test split, report; returns BLEU."""
    peak = peak_learning_rate(config.model.d_model, max(config.schedule.warmup_steps, 1))
    if config.optim.lr is None:
        context.resolve("optim.lr", peak, Source.DERIVED)
    with open_run(config, context) as run:
        data = build_data(config.data, context, run.directory, config.seed)
        task = TranslationTask(config.model, config.label_smoothing)
        trainer = fit(task, data, config, context, run, units="tokens")
        if not trainer.is_main:
            return 0.0
        average(task, config, run)
        sources, references = (side[:8] if context.dry_run else side for side in data.test)
        metrics = translate_test(task, data.tokenizer, (sources, references), config)
        finish(task, trainer, run, metrics)
        return metrics["test/bleu"]


def average(task: TranslationTask, config: Config, run: Run) -> None:
    """Give the task the mean weights of the last checkpoints (6.1)."""
    kept = step_checkpoints(run.checkpoints)[-config.average :]
    checkpoints = kept or [run.checkpoints / "last.pt"]
    load_weights(task, average_checkpoints(checkpoints))
    logger.info(f"weights: the mean of {len(checkpoints)} checkpoints")


def translate_test(
    task: TranslationTask, tokenizer: Tokenizer, test: TextPairs, config: Config
) -> dict[str, float]:
    """Translate the test split and show three samples; returns the metrics."""
    sources, references = test
    hypotheses = translate(task, tokenizer, sources, config.decode)
    metrics, signature = score(hypotheses, references)
    samples = list(zip(sources[:3], hypotheses, references, strict=False))
    sys.stdout.write(f"{signature}\n\n")
    sys.stdout.write(text_table(samples, ["source", "translation", "reference"], "Samples") + "\n")
    return metrics


if __name__ == "__main__":
    launch(train, Config, __file__)
