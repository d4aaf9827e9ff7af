"""The task of image classifiers: what it normalises, counts, weighs and collects."""

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from common.config import RunContext
from common.data import TensorLoader
from common.data.info import DatasetInfo
from common.losses import CrossEntropy, soft_targets
from common.training import ClassificationTask, OptimizerConfig, Trainer, TrainerConfig

INFO = DatasetInfo(num_classes=4, input_shape=(3, 2, 2), mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.0))


def task(info: DatasetInfo = INFO, **options) -> ClassificationTask:
    def build(given: DatasetInfo) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, given.num_classes))

    torch.manual_seed(0)
    made = ClassificationTask(build, **options)
    made.configure(info, RunContext())
    return made


def batch(size: int = 50) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (size, 3, 2, 2), dtype=torch.uint8, generator=generator)
    return {"image": pixels, "label": torch.randint(4, (size,), generator=generator)}


def test_the_network_sees_pixels_of_mean_0_and_deviation_1() -> None:
    images = batch()["image"]
    mean, std = torch.tensor(INFO.mean), torch.tensor([0.2, 0.3, 1.0])
    expected = (images / 255.0 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(task().normalized(images), expected)


def test_only_network_and_statistics_are_in_the_state_dict() -> None:
    weighted = task(loss=CrossEntropy(0.1, [1.0, 2.0, 3.0, 4.0]))
    assert set(weighted.state_dict()) == {"model.1.weight", "model.1.bias", "mean", "std"}


@pytest.mark.parametrize("is_soft", [False, True])
def test_accuracies_are_torchmetrics(is_soft: bool) -> None:
    given = batch()
    model = task(top_k=2)
    logits = model(given["image"])
    if is_soft:
        given["label"] = soft_targets(given["label"], 4)
    output = model.train_step(given)
    for name, k in (("accuracy", 1), ("top2", 2)):
        expected = multiclass_accuracy(logits, batch()["label"], 4, average="micro", top_k=k)
        assert output.metrics[name] / 50 == pytest.approx(expected.item())


def test_more_than_all_classes_are_all_classes() -> None:
    assert "top4" in task(top_k=5).train_step(batch()).metrics


def test_an_accuracy_is_of_examples_whatever_their_classes_weigh() -> None:
    weights = [0.01, 0.02, 5.0, 0.5]
    data = batch(50)
    weighted = task(loss=CrossEntropy(class_weights=weights))
    trainer = Trainer(TrainerConfig(max_steps=1, loggers=[]))
    found = trainer.evaluate(weighted, TensorLoader(data, 7))
    logits = weighted(data["image"])
    right = (logits.argmax(1) == data["label"]).float().mean()
    assert found["test/accuracy"] == pytest.approx(right.item())
    expected = nn.functional.cross_entropy(logits, data["label"], torch.tensor(weights))
    assert found["test/loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 5])
def test_weights_that_add_up_to_less_than_one_divide_exactly(accumulate: int) -> None:
    """Ten images of rare weight: one step of SGD at rate 1 is the gradient of torch's own mean."""
    weights = [0.01, 0.02, 5.0, 0.5]
    data = {"image": batch(10)["image"], "label": torch.arange(10) % 2}
    weighted = task(loss=CrossEntropy(class_weights=weights))
    torch.manual_seed(0)
    reference = task()
    logits = reference(data["image"])
    nn.functional.cross_entropy(logits, data["label"], torch.tensor(weights)).backward()
    torch.manual_seed(0)  # ``fit`` builds the network again
    config = TrainerConfig(max_steps=1, accumulate=accumulate, loggers=[])
    loader = TensorLoader(data, 10 // accumulate)
    Trainer(config).fit(weighted, loader, info=INFO, optim=OptimizerConfig("sgd", lr=1.0))
    for one, other in zip(weighted.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other - other.grad)


def test_logits_and_labels_of_a_whole_evaluation_come_when_asked() -> None:
    data, seen = batch(50), {}

    def measure(logits: Tensor, labels: Tensor) -> dict[str, float]:
        seen.update(logits=logits, labels=labels)
        return {"rows": float(len(logits))}

    model = task(metrics=measure)
    assert model.train_step(data).collected == {}
    found = Trainer(TrainerConfig(max_steps=1, loggers=[])).evaluate(model, TensorLoader(data, 16))
    assert found["test/rows"] == 50
    assert torch.equal(seen["labels"], data["label"])
    torch.testing.assert_close(seen["logits"], model(data["image"]))
    assert task().eval_step(data).collected == {}


def test_predictions_are_logits() -> None:
    model = task().eval()
    trainer = Trainer(TrainerConfig(max_steps=1, loggers=[]))
    rows = torch.cat(list(trainer.predict(model, TensorLoader(batch(20), 6))))
    torch.testing.assert_close(rows, model(batch(20)["image"]))


def test_a_task_without_a_network_says_so() -> None:
    with pytest.raises(TypeError, match="given no build"):
        ClassificationTask().configure(INFO, RunContext())
