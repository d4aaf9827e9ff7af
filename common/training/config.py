"""The values of a training run: how long, on what, and how often."""

from dataclasses import dataclass

from common.config import option
from common.training.privacy.budget import PrivacyConfig


@dataclass
class TrainerConfig:
    """Everything about a run that is neither model, data nor optimizer."""

    max_epochs: int | None = option("passes over the training data", None, ge=1)
    max_steps: int | None = option("optimizer updates; the earlier limit ends the run", None, ge=1)
    accumulate: int = option("micro-batches per update", 1, ge=1)
    clip_norm: float = option("largest joint norm of the gradients; 0: no clipping", 0.0, ge=0)
    precision: str = option("arithmetic of the steps", "fp32", choices=("fp32", "bf16", "fp16"))
    device: str = option("auto, cpu, cuda or cuda:N", "auto")
    strategy: str = option(
        "auto: as launched (single process, torchrun, accelerate launch)",
        "auto",
        choices=("auto", "single", "ddp", "fsdp", "accelerate", "private"),
    )
    privacy: PrivacyConfig | None = option("what strategy=private promises", None)
    compile: bool = option("torch.compile each part of the task", False)
    channels_last: bool = option("images with their channels innermost", False)
    activation_checkpointing: bool = option("compute activations twice, keep few", False)
    tf32: bool = option("let a GPU round the factors of matrix products to 10 bits", False)
    deterministic: bool = option("refuse operations that cannot be repeated exactly", True)
    keep_memory: bool = option("Linux: keep freed memory for the next step (faster)", True)
    overfit_batches: int = option("train and validate on so many batches only; 0: all", 0, ge=0)
    log_every: int = option("updates between log records", 50, ge=1)
    eval_every: int = option("updates between validations; 0: after every epoch", 0, ge=0)
    save_every: int = option("updates between checkpoints; 0: after every validation", 0, ge=0)
    keep: int = option("step-N.pt files kept beside last.pt and best.pt", 0, ge=0)
    monitor: str = option("the validation metric that makes best.pt", "validation/loss")
    mode: str = option("whether it should fall or rise", "min", choices=("min", "max"))
    loggers: list[str] = option(
        "backends beside metrics.jsonl: tensorboard, wandb, trackio, mlflow", ["tensorboard"]
    )
    diagnostics: list[str] = option(
        "what to measure beside the loss: gradient_norms, gradient_noise, profile, summary",
        [],
        choices=("gradient_norms", "gradient_noise", "profile", "summary"),
    )

    def __post_init__(self) -> None:
        if self.privacy is not None and self.strategy != "private":
            raise ValueError(
                f"trainer.privacy is set, but trainer.strategy is '{self.strategy}', which is not "
                "private; set trainer.strategy=private"
            )
