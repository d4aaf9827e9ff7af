"""The parts together on digits: everything on at once learns, and resumes to the last bit."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from common.data import (
    AugmentationConfig,
    BalancedBatches,
    Mixing,
    SampleLoader,
    TensorLoader,
    build_augmentation,
    load_embedded,
)
from common.data.info import DatasetInfo
from common.losses import LossConfig, build_loss
from common.testing.equality import run_differences
from common.training import (
    EMA,
    Callback,
    ClassificationTask,
    OptimizerConfig,
    Trainer,
    TrainerConfig,
)
from common.utils import Run, seed_everything
from common.utils.errors import InterruptedRun
from projects.image_classification.core.models import get_model, training_options, unfreezing
from tests.projects.image_classification.configurations import configuration

pytestmark = pytest.mark.usefixtures("no_curves")
INFO = DatasetInfo(num_classes=10, input_shape=(1, 8, 8), mean=(0.3,), std=(0.37,))
AUGMENTATION = AugmentationConfig(
    rotation=10.0, random_erasing=0.1, mixup_alpha=0.2, cutmix_alpha=1.0, mix_probability=0.5
)


def digits() -> dict[str, dict[str, torch.Tensor]]:
    splits = load_embedded("embedded/digits")
    return {
        name: {
            "image": torch.as_tensor(columns["image"]).reshape(-1, 1, 8, 8),
            "label": torch.as_tensor(columns["label"]).long(),
        }
        for name, columns in splits.items()
    }


class Images:
    def __init__(self, data: dict[str, torch.Tensor]) -> None:
        self.data = data
        self.augment = build_augmentation(AUGMENTATION, channels=1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.augment(self.data["image"][index])
        return {"image": image, "label": self.data["label"][index]}


class Mixed:
    def __init__(self) -> None:
        self.mix = Mixing(AUGMENTATION, 10)

    def __call__(self, samples: list[Any]) -> dict[str, torch.Tensor]:
        return self.mix(default_collate(samples))


class SignalAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.state.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def train(
    directory: Path,
    size: int,
    epochs: int,
    *,
    callbacks: Sequence[Callback] = (),
    resume: Path | None = None,
    workers: int = 0,
) -> dict[str, float]:
    seed_everything(0)
    splits = digits()
    rows = {key: value[:size] for key, value in splits["train"].items()}
    config = configuration(
        (8, 8),
        "L",
        10,
        type="custom",
        custom_architecture="tiny_net",
        dropout=0.1,
        freeze=["stages.0"],
        unfreeze_epoch=1,
        layer_decay=0.9,
        head_lr_multiplier=2.0,
    )
    model = get_model(config)
    counts = torch.bincount(rows["label"], minlength=10).tolist()
    loss = build_loss(LossConfig("focal", 0.1, 1.0, "effective"), counts)
    options = training_options(config, model)
    task = ClassificationTask(lambda info: model, loss, top_k=3, **options)
    order = BalancedBatches(rows["label"].numpy(), 64, seed=1, exact=True)
    loader = SampleLoader(Images(rows), order, collate=Mixed(), seed=2, num_workers=workers)
    directory.mkdir(parents=True, exist_ok=True)
    with Run(directory, 0) as run:
        trainer = Trainer(
            TrainerConfig(max_epochs=epochs, loggers=[], clip_norm=1.0, accumulate=2),
            run=run,
            callbacks=[EMA(0.99), *unfreezing(config.model), *callbacks],
        )
        test = TensorLoader(splits["test"], 500)
        optim = OptimizerConfig(lr=2e-2, weight_decay=0.01)
        return trainer.fit(task, loader, test, info=INFO, optim=optim, resume=resume)


def test_everything_at_once_learns_digits(tmp_path: Path) -> None:
    metrics = train(tmp_path, 500, 4)
    assert metrics["validation/accuracy"] > 0.5
    assert metrics["validation/top3"] > 0.8


@pytest.mark.parametrize(("stop", "workers"), [(2, 0), (4, 2)])
def test_everything_at_once_resumes_to_the_last_bit(
    tmp_path: Path, stop: int, workers: int
) -> None:
    train(tmp_path / "whole", 320, 2)
    with pytest.raises(InterruptedRun):
        train(tmp_path / "parts", 320, 2, callbacks=[SignalAt(stop)], workers=workers)
    last = tmp_path / "parts" / "checkpoints" / "last.pt"
    train(tmp_path / "parts", 320, 2, resume=last)
    assert run_differences(tmp_path / "whole", tmp_path / "parts") == []
