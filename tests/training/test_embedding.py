"""The task of learning embeddings: what its losses report, its groups, and how it is tested."""

import pytest
import torch
from torch import nn

from common.config import RunContext
from common.data import TensorLoader
from common.data.info import DatasetInfo
from common.losses import AngularMarginHead, ProxyAnchorLoss, TripletMarginLoss
from common.models.pooling import GeM
from common.training import EmbeddingTask, OptimizerConfig, StepOutput, Trainer, TrainerConfig
from common.training.meters import Meter, averages
from common.training.optim import build_optimizer

INFO = DatasetInfo(num_classes=5, input_shape=(1, 4, 4), mean=(0.5,), std=(0.25,))
LOSSES = {
    "margin": lambda dim, info: AngularMarginHead(dim, info.num_classes, learnable_scale=True),
    "proxy": lambda dim, info: ProxyAnchorLoss(dim, info.num_classes),
    "triplet": lambda dim, info: TripletMarginLoss(),
}


class Network(nn.Sequential):
    embedding_dim = 6

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 6, 3, padding=1), GeM(), nn.Linear(6, 6))


def task(loss: str = "margin", **values) -> EmbeddingTask:
    torch.manual_seed(0)
    made = EmbeddingTask(lambda info: Network(), LOSSES[loss], **values)
    made.configure(INFO, RunContext())
    return made


def tensors(count: int = 40) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 5
    pixels = torch.randint(0, 100, (count, 1, 4, 4), generator=generator) + 30 * labels.view(
        -1, 1, 1, 1
    )
    return {"image": pixels.to(torch.uint8), "label": labels}


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_and_reports(loss: str) -> None:
    made = task(loss)
    output = made.train_step(tensors())
    output.loss_sum.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    expected = {
        "margin": {"accuracy"},
        "proxy": set(),
        "triplet": {"active", "positive_distance", "negative_distance"},
    }
    assert set(output.metrics) == expected[loss]


def test_accuracy_is_read_from_cosines_without_margin() -> None:
    made, batch = task(), tensors()
    cosines = made.loss.cosines(made(batch["image"]))
    hits = (cosines.argmax(1) == batch["label"]).sum()
    assert torch.equal(made.train_step(batch).metrics["accuracy"], hits)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_losses_own_parameters_learn_at_their_own_rate_and_do_not_decay(loss: str) -> None:
    made = task(loss, center_lr_multiplier=10.0)
    optimizer = build_optimizer(OptimizerConfig(lr=0.01, weight_decay=0.1), made)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert set(of) == {id(p) for p in made.parameters()}
    for parameter in made.loss.parameters():
        assert (of[id(parameter)]["lr"], of[id(parameter)]["weight_decay"]) == (0.1, 0.0)
    for parameter in made.model.parameters():
        assert of[id(parameter)]["lr"] == 0.01
        assert of[id(parameter)]["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0.0)


def test_a_parameter_in_no_group_is_refused() -> None:
    class Forgetful(EmbeddingTask):
        def parameter_groups(self, weight_decay):
            return [{"params": list(self.model.parameters())}]

    made = Forgetful(lambda info: Network(), LOSSES["margin"])
    made.configure(INFO, RunContext())
    with pytest.raises(ValueError, match=r"loss.centers is in no parameter group"):
        build_optimizer(OptimizerConfig(), made)


def test_an_evaluation_is_retrieval_and_has_no_loss() -> None:
    """Labels that training never had; two of them alone, which nothing can find."""
    made, batch = task(), tensors()
    batch["label"] = torch.cat([batch["label"][:38] + 100, torch.tensor([7, 2**40])])
    loader = TensorLoader(batch, 16)
    values = Trainer(TrainerConfig(loggers=[])).evaluate(made, loader, prefix="test")
    assert set(values) == {"test/precision_at_1", "test/r_precision", "test/map_at_r"}
    with torch.no_grad():
        vectors = made.predict_step(batch)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(40))
    scores = (vectors @ vectors.T).fill_diagonal_(-2.0)
    nearest = batch["label"][scores.argmax(1)] == batch["label"]
    assert values["test/precision_at_1"] == pytest.approx(nearest[:38].double().mean().item())


def test_a_loss_that_is_not_a_number_is_still_shown() -> None:
    meter = Meter()
    meter.add(StepOutput(torch.tensor(float("nan")), 3), 3)
    names, totals = meter.totals(torch.device("cpu"))
    assert str(averages(names, totals, "test")) == "{'test/loss': nan}"


def test_a_batch_without_a_triplet_changes_no_mean_of_the_others() -> None:
    made, batch = task("triplet"), tensors()
    whole = made.train_step(batch)
    alone = made.train_step({name: value[:1] for name, value in batch.items()})
    assert alone.metrics_weight == 0
    meter = Meter()
    meter.add(whole, 40)
    meter.add(alone, 1)
    names, totals = meter.totals(torch.device("cpu"))
    found = averages(names, totals, "train")
    output = made.loss(made(batch["image"]), batch["label"])
    assert found["train/positive_distance"] == pytest.approx(output.positive_distance.item())
    assert found["train/negative_distance"] == pytest.approx(output.negative_distance.item())
    assert found["train/active"] == pytest.approx(output.active.item())
