"""The training engine: tasks, the trainer, optimizers, schedules, callbacks, run records."""

from common.training.batch_size import find_batch_size, settle_batch_size
from common.training.callbacks import (
    EMA,
    Callback,
    EarlyStopping,
    GradientNoise,
    GradientNorms,
    Profiler,
    ReduceOnPlateau,
    Throughput,
    Unfreeze,
)
from common.training.checkpointing import step_checkpoints
from common.training.classification import ClassificationTask
from common.training.config import TrainerConfig
from common.training.embedding import EmbeddingTask, retrieval_of
from common.training.experiment import (
    ExperimentConfig,
    finish,
    fit,
    report,
    restore_task,
    show_metrics,
)
from common.training.lr_finder import LearningRateRange, find_learning_rate
from common.training.optim import OptimizerConfig, build_optimizer
from common.training.pretrained import load_published
from common.training.run import open_run
from common.training.run_weights import average_checkpoints, load_run_weights
from common.training.schedules import ScheduleConfig, build_schedule
from common.training.state import TrainState
from common.training.summary import ModelSummary, summarize
from common.training.task import StepOutput, Task
from common.training.trainer import Trainer

__all__ = [
    "EMA",
    "Callback",
    "ClassificationTask",
    "EarlyStopping",
    "EmbeddingTask",
    "ExperimentConfig",
    "GradientNoise",
    "GradientNorms",
    "LearningRateRange",
    "ModelSummary",
    "OptimizerConfig",
    "Profiler",
    "ReduceOnPlateau",
    "ScheduleConfig",
    "StepOutput",
    "Task",
    "Throughput",
    "TrainState",
    "Trainer",
    "TrainerConfig",
    "Unfreeze",
    "average_checkpoints",
    "build_optimizer",
    "build_schedule",
    "find_batch_size",
    "find_learning_rate",
    "finish",
    "fit",
    "load_published",
    "load_run_weights",
    "open_run",
    "report",
    "restore_task",
    "retrieval_of",
    "settle_batch_size",
    "show_metrics",
    "step_checkpoints",
    "summarize",
]
