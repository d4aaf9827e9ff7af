"""The language model that is adapted: a run of ``papers.gpt2``, or one that is trained first.

Either way its weights and its tokenizer lie in the run from then on (``base.safetensors``,
``tokenizer.json``), so that a run that is resumed finds the same base. Of several ranks all train
it and the main rank alone writes it.
"""

from dataclasses import dataclass

from loguru import logger
from safetensors.torch import load_file
from torch import Tensor

from common.config import RunContext, Source, find_run, load_run_config, nested, option
from common.training import OptimizerConfig, ScheduleConfig, Trainer, TrainerConfig
from common.training.rng import seed_rank
from common.training.strategies import build_strategy
from common.utils import Run
from common.utils.paths import get_project_root
from common.utils.weights import save_weights
from papers.gpt2 import train as gpt2
from papers.gpt2.dataset import TextConfig, build_data
from papers.gpt2.generate import load_language_model
from papers.gpt2.model import LanguageModelTask, ModelConfig
from papers.gpt2.tokenization import save_tokenizer

_SHAPE = ("d_model", "num_heads", "num_layers")


@dataclass
class BaseConfig:
    """Where the base comes from; what follows ``run`` is for training one."""

    run: str | None = option("run of papers.gpt2; none: train a base first", None)
    data: TextConfig = nested(TextConfig)
    optim: OptimizerConfig = nested(OptimizerConfig)
    schedule: ScheduleConfig = nested(ScheduleConfig)
    max_steps: int = option("updates of the base's training", 400, ge=1)
    clip_norm: float = option("largest joint norm of its gradients; 0: no clipping", 1.0, ge=0)


def prepare_base(
    config: BaseConfig,
    model: ModelConfig,
    context: RunContext,
    run: Run,
    seed: int,
    settings: TrainerConfig,
) -> dict[str, Tensor]:
    """The base's weights; ``tokenizer.json`` is in the run afterwards.

    The generators are seeded anew at the end: what follows does not depend on whether the base
    was trained, read from another run, or found. Every rank must call this.

    Args:
        config: Where from.
        model: The values of a base that is trained.
        context: Where the shape of a base that is read is recorded.
        run: The open run.
        seed: Of the base's training and of what follows.
        settings: The trainer's, of what follows: where and among how many processes.

    Raises:
        ConfigError: if there is no run of that name, or the user's values contradict it.
        InterruptedRun: after a stop signal while a base is trained; there is nothing to resume.
    """
    path = run.directory / "base.safetensors"
    strategy = build_strategy(settings)
    is_main = strategy.rank == 0
    if config.run is not None:
        _read(config.run, context, run, is_main)
    elif not path.exists():
        _train(config, model, context, run, seed, settings)
    strategy.barrier()  # the main rank has written it
    seed_rank(seed, strategy.rank, settings.deterministic)
    return load_file(path)


def _read(name: str, context: RunContext, run: Run, is_main: bool) -> None:
    source = find_run(name, get_project_root() / "papers" / "gpt2")
    config, _ = load_run_config(gpt2.Config, source)
    for key in _SHAPE:
        context.resolve(f"model.{key}", getattr(config.model, key), Source.DATA, by="the base")
    context.resolve("data.block_size", config.data.block_size, Source.DATA, by="the base")
    if is_main and not (run.directory / "base.safetensors").exists():
        base, tokenizer, _ = load_language_model(source)
        save_tokenizer(tokenizer, run.directory / "tokenizer.json")
        save_weights(base, run.directory / "base.safetensors")


def _train(
    config: BaseConfig,
    model: ModelConfig,
    context: RunContext,
    run: Run,
    seed: int,
    settings: TrainerConfig,
) -> None:
    logger.info("no base is given: one is trained first")
    data = build_data(config.data, context, run.directory, seed, section="base.data")
    steps = 1 if context.dry_run else config.max_steps
    own = TrainerConfig(
        max_steps=steps,
        clip_norm=config.clip_norm,
        device=settings.device,
        deterministic=settings.deterministic,
        log_every=max(steps // 4, 1),
        loggers=[],
    )
    task = LanguageModelTask(model)
    trainer = Trainer(own, context=RunContext(), seed=seed, units="tokens")
    trainer.fit(task, data.train, info=data.info, optim=config.optim, schedule=config.schedule)
    metrics = trainer.evaluate(task, data.test)
    logger.info(f"the base has a loss of {metrics['test/loss']:.4f} on its own held-out text")
    if trainer.is_main:
        save_weights(task.model, run.directory / "base.safetensors")
