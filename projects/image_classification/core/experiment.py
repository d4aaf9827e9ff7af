"""From the keys of a classification's configuration to the values of the one Trainer."""

from common.training import (
    Callback,
    ExperimentConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainerConfig,
)
from common.training.callbacks import EMA, EarlyStopping, ReduceOnPlateau
from common.training.privacy.budget import PrivacyConfig
from common.utils.errors import ConfigError
from projects.image_classification.core.config import Config
from projects.image_classification.core.networks.freezing import unfreezing

MONITORS = {"val_acc": ("validation/accuracy", "max"), "val_loss": ("validation/loss", "min")}
_STRATEGIES = {"accelerate": "accelerate", "dp": "private"}
_PRECISIONS = {"float16": "fp16", "bfloat16": "bf16"}


def experiment_config(config: Config, steps_per_epoch: int) -> ExperimentConfig:
    """The engine's values.

    Args:
        config: The classification's.
        steps_per_epoch: Updates of an epoch, for lengths that are given in epochs.
    """
    return ExperimentConfig(
        seed=config.seed,
        optim=optimizer_config(config),
        schedule=_schedule(config, steps_per_epoch),
        trainer=trainer_config(config),
    )


def trainer_config(config: Config) -> TrainerConfig:
    """How ``training.trainer_type`` and its neighbours run: a strategy and a precision."""
    training = config.training
    is_mixed = training.trainer_type == "mixed_precision"
    monitor, mode = MONITORS[training.monitor]
    return TrainerConfig(
        max_epochs=training.num_epochs,
        accumulate=training.gradient_accumulation_steps,
        clip_norm=training.clip_norm,
        precision=_PRECISIONS[training.amp_dtype] if is_mixed else "fp32",
        device=training.device,
        strategy=_STRATEGIES.get(training.trainer_type, "auto"),
        privacy=_privacy(config) if training.trainer_type == "dp" else None,
        compile=training.compile,
        channels_last=training.channels_last,
        deterministic=config.deterministic,
        log_every=training.log_every,
        monitor=monitor,
        mode=mode,
        loggers=list(training.loggers),
    )


def optimizer_config(config: Config) -> OptimizerConfig:
    """The optimizer's values under the engine's names."""
    values = config.optimizer
    return OptimizerConfig(
        name=values.name,
        lr=values.lr,
        weight_decay=values.weight_decay,
        betas=values.betas,
        eps=values.eps,
        momentum=values.momentum,
        nesterov=values.nesterov,
    )


def callbacks_of(config: Config) -> list[Callback]:
    """What the configuration hangs on the loop."""
    training = config.training
    monitor, mode = MONITORS[training.monitor]
    found: list[Callback] = []
    if training.ema_decay:
        found.append(EMA(training.ema_decay))
    if training.early_stopping:
        found.append(EarlyStopping(monitor, mode, training.early_stopping))
    if config.scheduler.name == "plateau":
        scheduler = config.scheduler
        found.append(ReduceOnPlateau(monitor, mode, scheduler.gamma, scheduler.patience))
    return [*found, *unfreezing(config.model)]


def _schedule(config: Config, steps_per_epoch: int) -> ScheduleConfig:
    scheduler = config.scheduler
    warmup = round(scheduler.warmup_epochs * steps_per_epoch)
    total = config.training.num_epochs * steps_per_epoch
    if warmup >= total > 1:
        raise ConfigError(
            f"scheduler.warmup_epochs is {scheduler.warmup_epochs:g}, but training.num_epochs is "
            f"{config.training.num_epochs}; warm up for less than the whole run"
        )
    return ScheduleConfig(
        name="constant" if scheduler.name == "plateau" else scheduler.name,
        warmup_steps=warmup,
        final_factor=scheduler.final_factor,
        step_size=max(1, round(scheduler.step_size * steps_per_epoch)),
        milestones=[round(epoch * steps_per_epoch) for epoch in scheduler.milestones],
        gamma=scheduler.gamma,
        decay_fraction=scheduler.decay_fraction,
    )


def _privacy(config: Config) -> PrivacyConfig:
    dp = config.training.dp
    return PrivacyConfig(
        target_epsilon=dp.target_epsilon,
        target_delta=dp.target_delta,
        noise_multiplier=dp.noise_multiplier,
        max_grad_norm=dp.max_grad_norm,
        replace_layers=True,
        secret_seed=dp.secret_seed,
    )
