"""The training engine: tasks, the trainer, optimizers, schedules, callbacks, run records."""

from common.training.callbacks import EMA, Callback, EarlyStopping, ReduceOnPlateau
from common.training.checkpointing import step_checkpoints
from common.training.config import TrainerConfig
from common.training.optim import OptimizerConfig, build_optimizer
from common.training.run import open_run
from common.training.run_weights import average_checkpoints, load_run_weights
from common.training.schedules import ScheduleConfig, build_schedule
from common.training.state import TrainState
from common.training.task import StepOutput, Task
from common.training.trainer import Trainer

__all__ = [
    "EMA",
    "Callback",
    "EarlyStopping",
    "OptimizerConfig",
    "ReduceOnPlateau",
    "ScheduleConfig",
    "StepOutput",
    "Task",
    "TrainState",
    "Trainer",
    "TrainerConfig",
    "average_checkpoints",
    "build_optimizer",
    "build_schedule",
    "load_run_weights",
    "open_run",
    "step_checkpoints",
]
