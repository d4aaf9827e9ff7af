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
    OptimizerConfig,
    ScheduleConfig,
    Trainer,
    TrainerConfig,
    average_checkpoints,
    open_run,
    step_checkpoints,
)
from common.utils import Run, save_weights
from common.utils.checkpoint import load_weights
from common.visualization import text_table
from papers.attention_is_all_you_need.dataset import DataConfig, build_data
from papers.attention_is_all_you_need.decoding import DecodeConfig, score, translate
from papers.attention_is_all_you_need.model import ModelConfig, TranslationTask, peak_learning_rate


@dataclass
class Config:
    """Everything about a run."""

    seed: int = option("seed of everything random", 0, ge=0)
    label_smoothing: float = option("epsilon_ls of section 5.4", 0.1, ge=0, lt=1)
    average: int = option("last checkpoints whose weights are averaged (6.1)", 5, ge=1)
    model: ModelConfig = nested(ModelConfig)
    data: DataConfig = nested(DataConfig)
    optim: OptimizerConfig = nested(OptimizerConfig)
    schedule: ScheduleConfig = nested(ScheduleConfig)
    trainer: TrainerConfig = nested(TrainerConfig)
    decode: DecodeConfig = nested(DecodeConfig)


def train(config: Config, context: RunContext) -> float:
    """Train, average, translate the test split, report; returns BLEU."""
    peak = peak_learning_rate(config.model.d_model, max(config.schedule.warmup_steps, 1))
    if config.optim.lr is None:
        context.resolve("optim.lr", peak, Source.DERIVED)
    with open_run(config, context) as run:
        data = build_data(config.data, context, run.directory, config.seed)
        sizes = ", ".join(f"{count:,} {name}" for name, count in data.info.sizes.items())
        logger.info(f"{data.info.name}: {sizes} pairs; {data.info.vocab_size:,} tokens")
        task = TranslationTask(config.model, config.label_smoothing)
        trainer = Trainer(
            config.trainer, run=run, context=context, seed=config.seed, units="tokens"
        )
        trainer.fit(
            task,
            data.train,
            data.validation,
            info=data.info,
            optim=config.optim,
            schedule=config.schedule,
            resume=run.resume_from,
        )
        if not trainer.is_main:
            return 0.0
        finish(task, config, run)
        sources, references = (side[:8] if context.dry_run else side for side in data.test)
        metrics = report(task, data.tokenizer, (sources, references), config)
        run.record(metrics=metrics, parameters=sum(p.numel() for p in task.parameters()))
        sys.stdout.write(f"record: {run.directory}\n")
        return metrics["test/bleu"]


def finish(task: TranslationTask, config: Config, run: Run) -> None:
    """Average the last checkpoints (6.1) and write the finished weights."""
    kept = step_checkpoints(run.checkpoints)[-config.average :]
    checkpoints = kept or [run.checkpoints / "last.pt"]
    load_weights(task, average_checkpoints(checkpoints))
    logger.info(f"weights: the mean of {len(checkpoints)} checkpoints")
    save_weights(task, run.directory / "model.safetensors")


def report(
    task: TranslationTask, tokenizer: Tokenizer, test: TextPairs, config: Config
) -> dict[str, float]:
    """Translate the test split; show and return the metrics, with three samples."""
    sources, references = test
    hypotheses = translate(task, tokenizer, sources, config.decode)
    metrics, signature = score(hypotheses, references)
    rows = [[name, f"{value:.4f}"] for name, value in metrics.items()]
    samples = list(zip(sources[:3], hypotheses, references, strict=False))
    sys.stdout.write(text_table(rows, ["metric", "value"], "Results") + f"\n{signature}\n\n")
    sys.stdout.write(text_table(samples, ["source", "translation", "reference"], "Samples") + "\n")
    return metrics


if __name__ == "__main__":
    launch(train, Config, __file__)
