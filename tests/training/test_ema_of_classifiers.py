"""The moving average on short runs and under batch normalisation."""

import torch
from torch import Tensor, nn

from common.data import TensorLoader
from common.data.info import DatasetInfo
from common.training import EMA, ClassificationTask, OptimizerConfig, Trainer, TrainerConfig

INFO = DatasetInfo(num_classes=3, input_shape=(1, 6, 6), mean=(0.5,), std=(0.25,))


def images(size: int = 240) -> dict[str, Tensor]:
    """A class is which of three columns is bright."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(160, (size, 1, 6, 6), dtype=torch.uint8, generator=generator)
    labels = torch.randint(3, (size,), generator=generator)
    pixels[torch.arange(size), 0, :, 2 * labels] += 90
    return {"image": pixels, "label": labels}


def network(info: DatasetInfo) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 3),
    )


def fit(decay: float, steps: int, lr: float = 1e-2) -> tuple[Trainer, EMA, TensorLoader]:
    torch.manual_seed(0)
    ema = EMA(decay)
    trainer = Trainer(TrainerConfig(max_steps=steps, loggers=[]), callbacks=[ema])
    test = TensorLoader(images(), 240)
    task = ClassificationTask(network)
    train = TensorLoader(images(), 32, shuffle=True)
    trainer.fit(task, train, test, info=INFO, optim=OptimizerConfig(lr=lr))
    return trainer, ema, test


def test_a_decay_for_long_runs_evaluates_near_the_raw_weights_of_a_short_one() -> None:
    trainer, _, test = fit(0.9998, 100)
    averaged = trainer.metrics["validation/accuracy"]
    raw = trainer.evaluate(trainer.task, test)["test/accuracy"]
    assert raw > 0.9
    assert averaged > raw - 0.03
    # Without the warm-up the average would still be, to 98%, the weights before the first step.
    assert 0.9998**100 > 0.98


def test_running_statistics_are_averaged_with_the_weights_they_belong_to() -> None:
    trainer, ema, _ = fit(0.9, 20)
    norm = trainer.task.model[1]
    assert not torch.equal(ema.shadow["model.1.running_mean"], norm.running_mean)
    raw = norm.running_mean.clone()
    ema.copy_to(trainer.task)
    assert torch.equal(norm.running_mean, ema.shadow["model.1.running_mean"])
    assert not torch.equal(norm.running_mean, raw)


def test_averaged_statistics_fit_averaged_weights_better_than_the_newest_do() -> None:
    """Against the exact statistics of the averaged weights, over all data, in a long run."""
    data = images(480)
    wrong = torch.rand(480, generator=torch.Generator().manual_seed(5)) < 0.3
    data["label"][wrong] = (data["label"][wrong] + 1) % 3  # so that the weights do not come to rest
    torch.manual_seed(0)
    ema, task = EMA(0.99), ClassificationTask(network)
    trainer = Trainer(TrainerConfig(max_steps=500, loggers=[]), callbacks=[ema])
    optim = OptimizerConfig("sgd", lr=0.1, momentum=0.9)
    trainer.fit(task, TensorLoader(data, 32, shuffle=True), info=INFO, optim=optim)
    newest = task.model[1].running_mean.clone(), task.model[1].running_var.clone()
    ema.copy_to(task)
    averaged = task.model[1].running_mean, task.model[1].running_var
    with torch.no_grad():
        maps = task.model[0](task.normalized(data["image"]))
    exact = maps.mean((0, 2, 3)), maps.var((0, 2, 3))
    for own, others, truth in zip(averaged, newest, exact, strict=True):
        assert (own - truth).abs().mean() < 0.5 * (others - truth).abs().mean()


def test_training_goes_on_with_its_own_statistics() -> None:
    plain = Trainer(TrainerConfig(max_steps=12, eval_every=4, loggers=[]))
    averaged = Trainer(TrainerConfig(max_steps=12, eval_every=4, loggers=[]), callbacks=[EMA(0.9)])
    for trainer in (plain, averaged):
        torch.manual_seed(0)
        task = ClassificationTask(network)
        loaders = TensorLoader(images(), 32, shuffle=True), TensorLoader(images(), 240)
        trainer.fit(task, *loaders, info=INFO)
    for one, other in zip(
        plain.task.state_dict().values(), averaged.task.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
