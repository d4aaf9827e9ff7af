"""An evaluation leaves its text, JSON, CSV and pictures, and the card says only what is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.metrics import (
    TemperatureScaling,
    calibration_report,
    classification_metrics,
    pooled_metrics,
    read_predictions,
)
from common.utils.errors import DataError
from projects.image_classification.core.evaluation.pictures import samples, worst_mistakes
from projects.image_classification.core.evaluation.report import (
    CardFacts,
    write_evaluation,
    write_model_card,
)

_NAMES = ["cat | tom", "猫", "line\nend"]
_PLOTS = ["class_f1", "confusion_matrix", "precision_recall", "reliability", "roc"]


class _Evaluation:
    """A network of three classes, its images, and what it says of them."""

    def __init__(self, count: int = 60) -> None:
        torch.manual_seed(0)
        self.images = torch.randint(256, (count, 1, 10, 12), dtype=torch.uint8)
        self.labels = torch.randint(3, (count,))
        self.model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        )
        with torch.no_grad():
            self.logits = self.model(self.to_input(self.images))
            self.logits[torch.arange(count), self.labels] += torch.rand(count)
        self.ids = [f"raw/{k},\n.png" for k in range(count)]
        self.report = classification_metrics(self.logits, self.labels, _NAMES)
        self.scaling = TemperatureScaling.fit(self.logits[:30], self.labels[:30])

    def to_input(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() / 255

    def write(self, directory: Path, **options) -> dict[str, float]:
        return write_evaluation(
            directory, self.report, self.logits, self.labels, self.ids, _NAMES, **options
        )


@pytest.fixture(scope="module")
def evaluation() -> _Evaluation:
    return _Evaluation()


def test_everything_is_written_and_no_picture_is_blank(
    tmp_path: Path, evaluation: _Evaluation
) -> None:
    metrics = evaluation.write(
        tmp_path / "new" / "test",
        images=lambda k: evaluation.images[k],
        model=evaluation.model,
        to_input=evaluation.to_input,
        scaling=evaluation.scaling,
    )
    directory = tmp_path / "new" / "test"
    found = sorted(path.stem for path in (directory / "plots").glob("*.png"))
    assert found == sorted([*_PLOTS, "grad_cam", "samples", "worst_mistakes"])
    for path in (directory / "plots").glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 150, path
        assert pixels.std() > 5, path
    assert metrics["test/accuracy"] == evaluation.report.accuracy
    assert metrics["temperature"] == evaluation.scaling.temperature
    assert {"test/top3_accuracy", "test/ece_calibrated"} <= metrics.keys()

    record = json.loads((directory / "report.json").read_text())
    assert record["metrics"]["accuracy"] == evaluation.report.accuracy
    assert record["calibration"]["ece_after"] == metrics["test/ece_calibrated"]
    assert sum(record["reliability"]["counts"]) == 60
    text = (directory / "report.txt").read_text()
    assert "Evaluation on 60 test images" in text
    assert "fitted on 30 other images" in text
    predictions = read_predictions(directory / "predictions.csv")
    assert predictions.ids == tuple(evaluation.ids)
    again = classification_metrics(predictions.probabilities.log(), predictions.labels, _NAMES)
    assert again.accuracy == evaluation.report.accuracy


def test_without_images_there_are_no_sheets_and_without_drawing_no_pictures(
    tmp_path: Path, evaluation: _Evaluation
) -> None:
    metrics = evaluation.write(tmp_path, split="val")
    assert sorted(path.stem for path in (tmp_path / "plots").iterdir()) == _PLOTS
    assert "val/accuracy" in metrics
    assert "temperature" not in metrics
    evaluation.write(tmp_path / "b", draws=False)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        "predictions.csv",
        "report.json",
        "report.txt",
    ]


def test_a_picture_that_cannot_be_drawn_is_told_and_the_rest_is_there(
    tmp_path: Path, evaluation: _Evaluation, logged: list[str]
) -> None:
    def gone(index: int) -> torch.Tensor:
        raise DataError("raw/x.png is gone")

    evaluation.write(tmp_path, images=gone)
    assert sorted(path.stem for path in (tmp_path / "plots").iterdir()) == _PLOTS
    assert "no sheet of mistakes: raw/x.png is gone" in logged


def test_images_of_one_class_are_evaluated_without_curves(
    tmp_path: Path, logged: list[str]
) -> None:
    logits, labels = torch.tensor([[2.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 0])
    report = classification_metrics(logits, labels, ["a", "b"])
    images = torch.zeros(2, 3, 5, 5, dtype=torch.uint8)
    write_evaluation(
        tmp_path, report, logits, labels, ["x", "y"], ["a", "b"], images=lambda k: images[k]
    )
    found = {path.stem for path in (tmp_path / "plots").iterdir()}
    assert found == {"class_f1", "confusion_matrix", "reliability", "samples"}  # no mistakes
    assert any(line.startswith("no ROC curves: all images are of one class") for line in logged)


def test_a_report_of_other_images_is_refused(tmp_path: Path, evaluation: _Evaluation) -> None:
    with pytest.raises(DataError, match="the report is of 60 images"):
        write_evaluation(
            tmp_path, evaluation.report, torch.zeros(2, 3), torch.tensor([0, 1]), ["a", "b"], _NAMES
        )


def test_the_worst_mistakes_are_those_with_the_highest_loss() -> None:
    logits = torch.tensor([[5.0, 0.0], [0.0, 9.0], [0.0, 2.0], [3.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 1])
    assert worst_mistakes(logits, labels, 2) == [1, 3]
    assert worst_mistakes(logits, labels, 9) == [1, 3, 2]


def test_samples_are_of_as_many_classes_as_there_is_room_for() -> None:
    labels = torch.tensor([2, 2, 2, 0, 0, 1])
    assert samples(labels, 3) == [3, 5, 0]
    assert samples(labels, 5) == [3, 4, 5, 0, 1]
    assert samples(labels, 0) == []


def _card(tmp_path: Path, **known) -> str:
    facts = CardFacts(dataset="pets", class_names=_NAMES, **known)
    return write_model_card(tmp_path, facts).read_text(encoding="utf-8")


def test_a_card_of_nothing_known_claims_nothing(tmp_path: Path) -> None:
    text = _card(tmp_path)
    for claim in ("None", "Seed", "accuracy", "ml-inference", "## Model", "nan"):
        assert claim not in text
    assert "It was not evaluated on test images." in text
    assert "Commit: unknown" in text
    assert "Split: how it was made is unknown" in text
    assert "differential privacy is unknown" in text


def test_a_card_tells_data_training_results_limits_and_use(
    tmp_path: Path, evaluation: _Evaluation
) -> None:
    folds = [
        ([f"{k}/{n}" for n in range(20)], evaluation.logits[20 * k :][:20],
         evaluation.labels[20 * k :][:20])
        for k in range(3)
    ]  # fmt: skip
    text = _card(
        tmp_path,
        counts={"train": [100, 20, 7], "test": [20, 20, 20]},
        split_method="5 folds, stratified, grouped by patient_id",
        architecture="resnet18 (torchvision)",
        parameters=11_178_051,
        pretrained="",
        command="ml-train --config c.yaml optimizer.lr=0.1",
        seed=7,
        commit="a" * 40,
        dirty=True,
        settings={"optimizer.lr": 0.1},
        report=evaluation.report,
        calibration=calibration_report(evaluation.scaling, evaluation.logits, evaluation.labels),
        cross_validation=pooled_metrics(folds, _NAMES),
        privacy={},
        checkpoint="runs/a b/weights/best.pt",
        notes=["Photos were taken in summer."],
    )
    for line in (
        "- Split: 5 folds, stratified, grouped by patient\\_id",
        "| cat \\| tom | 100 | 20 |",
        "| line\\\\nend | 7 | 20 |",
        "| **all** | 127 | 60 |",
        "- Parameters: 11,178,051",
        "- First weights: random",
        "- Seed: 7",
        f"- Commit: {'a' * 40}, with uncommitted changes",
        "- `optimizer.lr`: 0.1",
        f"| accuracy | {evaluation.report.accuracy:.4f} |",
        "ml-inference --checkpoint_path 'runs/a b/weights/best.pt' --images FOLDER",
        "- Photos were taken in summer.",
    ):
        assert line in text.splitlines()
    low, high = evaluation.report.interval
    assert f"between {low:.4f} and {high:.4f} with 95 % confidence" in text
    assert "the largest has 100 training images, the smallest 7" in text
    assert "Cross-validation with 3 folds" in text
    assert "Trained without differential privacy" in text
    assert "It was not evaluated" not in text


def test_a_privacy_guarantee_is_told_with_its_numbers(tmp_path: Path) -> None:
    text = _card(tmp_path, privacy={"epsilon": 3.2, "delta": 1e-5})
    assert "DP-SGD): `epsilon` 3.2, `delta` 1e-05." in text


def test_many_classes_are_summed_up(tmp_path: Path) -> None:
    names = [f"class {k}" for k in range(200)]
    facts = CardFacts("birds", names, counts={"train": range(1, 201)})
    text = write_model_card(tmp_path, facts).read_text()
    assert "| largest class | 200 |" in text
    assert "class 17" not in text
