"""Every value of an image classification, as ``configs/<dataset>_config.yaml`` names it.

The file that ``ml-init-config`` writes shows each key with its meaning; the commands take any of
them as ``section.key=value``. ``core.experiment`` turns these into the values of the one Trainer.
"""

from dataclasses import dataclass
from typing import Any

from common.config import nested, option
from common.data.augmentation_config import AugmentationConfig
from common.data.preprocessing_config import PreprocessingConfig
from common.losses.config import LossConfig
from common.utils.errors import ConfigError
from projects.image_classification.core.model_config import ModelConfig

ALL_FOLDS = "all"
METRICS = ("val_acc", "val_loss")


@dataclass
class DataConfig:
    """Which images, and how they are read."""

    dataset_name: str | None = option("part of the run directory's name; null: data_dir's", None)
    data_dir: str = option("folder that holds raw/ and splits/", "data/digits")
    fold: int | str = option("fold to train, 0, 1, ...; or all: one after the other", 0)
    class_names: list[str] | None = option(
        "the classes in the order of the network's outputs; null: splits/classes.json", None
    )
    num_classes: int | None = option("from the data", None, ge=2)
    class_counts: list[int] | None = option(
        "training images of each class, from the data; what class weights are made of", None
    )
    on_bad: str = option(
        "an image that cannot be read: fail, or skip (counted and listed)",
        "fail",
        choices=("fail", "skip"),
    )
    sampling: str = option(
        "shuffle, or balanced: every class equally often",
        "shuffle",
        choices=("shuffle", "balanced"),
    )
    cache: str = option(
        "keep decoded and resized images: none, memory, or disk (a memory-mapped file)",
        "none",
        choices=("none", "memory", "disk"),
    )
    num_workers: int = option("processes that read ahead; 0: none", 0, ge=0)
    eval_batch_size: int = option("images of an evaluation batch", 64, ge=1)


@dataclass
class DPConfig:
    """What ``training.trainer_type: dp`` promises about each training image."""

    noise_multiplier: float | None = option(
        "noise over max_grad_norm; excludes target_epsilon", None
    )
    max_grad_norm: float = option("largest norm of one image's gradient", 1.0, gt=0)
    target_epsilon: float | None = option(
        "the budget: it decides the noise; excludes noise_multiplier", None, gt=0
    )
    target_delta: float | None = option(
        "probability of no promise; null: the power of ten below 1 / training images",
        None,
        gt=0,
        lt=1,
    )
    secret_seed: bool = option(
        "draw batches and noise from a seed of the system's; needed for a guarantee", False
    )


@dataclass
class TrainingConfig:
    """How long, on what, and with what around the loop."""

    trainer_type: str = option(
        "standard; mixed_precision; accelerate (under accelerate launch); dp (Opacus)",
        "standard",
        choices=("standard", "mixed_precision", "accelerate", "dp"),
    )
    amp_dtype: str = option(
        "of mixed_precision; bfloat16 needs no loss scaling",
        "float16",
        choices=("float16", "bfloat16"),
    )
    num_epochs: int = option("passes over the training images", 20, ge=1)
    batch_size: int = option("images of a micro-batch", 32, ge=1)
    gradient_accumulation_steps: int = option("micro-batches per update", 1, ge=1)
    clip_norm: float = option("largest joint norm of the gradients; 0: no clipping", 0.0, ge=0)
    device: str = option("auto, cpu, cuda or cuda:N", "auto")
    ema_decay: float = option("moving average of the weights, evaluated; 0: none", 0.0, ge=0, lt=1)
    early_stopping: int = option(
        "epochs without a better monitor before the end; 0: never", 0, ge=0
    )
    monitor: str = option("what makes best.pt", "val_acc", choices=METRICS)
    compile: bool = option("torch.compile the network", False)
    channels_last: bool = option("images with their channels innermost", False)
    log_every: int = option("updates between log records", 20, ge=1)
    loggers: list[str] = option(
        "beside metrics.jsonl: tensorboard, wandb, trackio, mlflow", ["tensorboard"]
    )
    dp: DPConfig = nested(DPConfig)

    def __post_init__(self) -> None:
        if self.trainer_type != "dp":
            return
        noise, epsilon = self.dp.noise_multiplier, self.dp.target_epsilon
        if (noise is None) == (epsilon is None):
            given = "neither is" if noise is None else "both are"
            raise ConfigError(
                "training.dp takes exactly one of noise_multiplier (epsilon is what it comes to) and "
                f"target_epsilon (the noise is computed); {given} set"
            )


@dataclass
class OptimizerConfig:
    """Which optimizer, and its values; null keeps the optimizer's own default."""

    name: str = option("any optimizer of torch.optim: sgd, adam, adamw, ...", "adamw")
    lr: float = option("peak learning rate", 1e-3, gt=0)
    momentum: float | None = option("SGD's and RMSprop's", None, ge=0, lt=1)
    nesterov: bool | None = option("Nesterov's momentum", None)
    weight_decay: float = option("of matrices; biases and norms are left alone", 0.01, ge=0)
    betas: list[float] | None = option("Adam's decay rates", None)
    eps: float | None = option("added to the denominator", None, gt=0)


@dataclass
class SchedulerConfig:
    """How the learning rate moves; its lengths are epochs."""

    name: str = option(
        "shape after the warm-up",
        "cosine",
        choices=(
            "constant",
            "cosine",
            "linear",
            "step",
            "multistep",
            "exponential",
            "plateau",
            "wsd",
        ),
    )
    warmup_epochs: float = option("linear warm-up from 0; parts of an epoch count", 0.0, ge=0)
    final_factor: float = option("cosine, linear, wsd: the last rate over the peak", 0.0, ge=0)
    step_size: float = option("step, exponential: epochs between decays", 10.0, gt=0)
    milestones: list[float] = option("multistep: decay after these epochs", [])
    gamma: float = option("step, multistep, exponential, plateau: the factor", 0.1, gt=0, le=1)
    patience: int = option("plateau: epochs without a better monitor before a decay", 5, ge=0)
    decay_fraction: float = option("wsd: the share of the run that decays", 0.2, gt=0, le=1)


@dataclass
class EvaluationConfig:
    """What is measured and drawn after training."""

    top_k: int = option("top-k accuracy; clamped to the number of classes", 5, ge=1)
    calibrate: bool = option("fit a temperature to the validation images", True)
    calibration_bins: int = option("equal bins of confidence for ECE", 15, ge=2)
    plots: bool = option("draw the report on the test images; the numbers need no picture", True)
    num_mistakes: int = option("worst mistakes shown", 24, ge=0)
    grad_cam: int = option("images shown with Grad-CAM; 0: none", 8, ge=0)


@dataclass
class SearchTypeConfig:
    """A sampler or a pruner of Optuna by name."""

    type: str = option("its class in optuna", "")
    options: dict[str, Any] = option("its arguments", {})


@dataclass
class SearchConfig:
    """What ``ml-search`` varies, and how."""

    study_name: str | None = option("null: the data set's name", None)
    storage: str = option(
        "sqlite:///FILE; postgresql:// or mysql:// for many machines; journal:///FILE for many "
        "processes",
        "sqlite:///optuna_studies.db",
    )
    n_trials: int = option("trials of this command", 50, ge=1)
    timeout: float | None = option("seconds after which no trial begins", None, gt=0)
    direction: str | None = option("null: as metric asks", None, choices=("maximize", "minimize"))
    metric: str = option("what a trial is judged by", "val_acc", choices=METRICS)
    fold: int | str = option("what a trial trains: a fold, or all: the mean over folds", 0)
    sampler: SearchTypeConfig = nested(SearchTypeConfig)
    pruner: SearchTypeConfig = nested(SearchTypeConfig)
    search_space: dict[str, Any] = option(
        "by key: {type: loguniform|uniform|int, low, high} or {type: categorical, choices}", {}
    )


@dataclass
class Config:
    """Everything about a classification."""

    seed: int = option("seed of everything random", 0, ge=0)
    deterministic: bool = option("refuse operations that cannot be repeated exactly", True)
    data: DataConfig = nested(DataConfig)
    preprocessing: PreprocessingConfig = nested(PreprocessingConfig)
    augmentation: AugmentationConfig = nested(AugmentationConfig)
    model: ModelConfig = nested(ModelConfig)
    loss: LossConfig = nested(LossConfig)
    training: TrainingConfig = nested(TrainingConfig)
    optimizer: OptimizerConfig = nested(OptimizerConfig)
    scheduler: SchedulerConfig = nested(SchedulerConfig)
    evaluation: EvaluationConfig = nested(EvaluationConfig)
    search: SearchConfig = nested(SearchConfig)

    def __post_init__(self) -> None:
        if self.training.trainer_type == "dp":
            self._check_privacy()

    def _check_privacy(self) -> None:
        """Refuse what looks at private images outside of the noisy gradients, or mixes them."""
        reasons = {
            "augmentation.mixup_alpha": "an example's gradient would hold two images",
            "augmentation.cutmix_alpha": "an example's gradient would hold two images",
            "training.ema_decay": "the average of batch statistics has no guarantee",
        }
        for key, reason in reasons.items():
            section, name = key.split(".")
            if value := getattr(getattr(self, section), name):
                raise ConfigError(
                    f"{key} is {value:g}, but with trainer_type dp {reason}; set it to 0"
                )
        if isinstance(self.loss.class_weights, str) and self.loss.class_weights != "none":
            raise ConfigError(
                f"loss.class_weights is {self.loss.class_weights}, which counts the private images; "
                "with trainer_type dp give a list of numbers from elsewhere, or none"
            )
        if self.data.sampling != "shuffle":
            raise ConfigError(
                f"data.sampling is {self.data.sampling}, but trainer_type dp draws batches itself "
                "(every image with the same probability); set it to shuffle"
            )
