"""The report of a classifier against scikit-learn, and where a number is not defined."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from common.metrics import ClassificationReport, classification_metrics
from common.metrics.predictions import check_predictions
from common.utils.errors import DataError


def _data(
    classes: int, present: int | None = None, *, count: int = 300, seed: int = 0, ties: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(present or classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1.0
    return (logits.round() if ties else logits), labels


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("classes", "present"), [(2, 2), (3, 3), (10, 10), (10, 7), (3, 2)])
def test_every_number_is_scikit_learns(classes: int, present: int, ties: bool) -> None:
    logits, labels = _data(classes, present, ties=ties)
    report = classification_metrics(logits, labels, top_k=2)
    p = logits.double().log_softmax(1).exp().numpy()
    y = labels.numpy()
    predicted = p.argmax(1)
    everyone, there = range(classes), range(present)

    assert report.accuracy == pytest.approx(sk.accuracy_score(y, predicted), abs=1e-15)
    assert np.array_equal(report.confusion, sk.confusion_matrix(y, predicted, labels=everyone))
    assert report.mcc == pytest.approx(sk.matthews_corrcoef(y, predicted), abs=1e-12)
    assert report.cohen_kappa == pytest.approx(sk.cohen_kappa_score(y, predicted), abs=1e-12)
    assert report.log_loss == pytest.approx(sk.log_loss(y, p, labels=everyone), abs=1e-9)
    one_hot = np.eye(classes)[y]
    assert report.brier == pytest.approx(np.square(p - one_hot).sum(1).mean(), abs=1e-9)
    for name, averages in (("macro", report.macro), ("weighted", report.weighted)):
        expected = sk.precision_recall_fscore_support(
            y, predicted, labels=there, average=name, zero_division=0
        )[:3]
        assert (averages.precision, averages.recall, averages.f1) == pytest.approx(expected)
    recalls = sk.recall_score(y, predicted, labels=there, average=None)
    assert report.balanced_accuracy == pytest.approx(recalls.mean())
    even = p.round(12)  # scikit-learn takes the last bit of a sum for a difference
    aurocs = [sk.roc_auc_score(y == k, even[:, k]) for k in there]
    precisions = [sk.average_precision_score(y == k, even[:, k]) for k in there]
    assert [s.auroc for s in report.classes[:present]] == pytest.approx(aurocs, abs=1e-5)
    assert [s.average_precision for s in report.classes[:present]] == pytest.approx(
        precisions, abs=1e-5
    )
    assert report.auroc == pytest.approx(np.mean(aurocs), abs=1e-5)
    assert report.average_precision == pytest.approx(np.mean(precisions), abs=1e-5)


def test_top_k_is_scikit_learns_and_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_accuracy

    logits, labels = _data(10)
    report = classification_metrics(logits, labels, top_k=3)
    expected = sk.top_k_accuracy_score(labels, logits, k=3)
    assert report.top_k_accuracy == pytest.approx(expected)
    torch_value = multiclass_accuracy(logits, labels, 10, average="micro", top_k=3)
    assert report.top_k_accuracy == pytest.approx(float(torch_value))


def test_top_5_of_two_classes_is_called_what_it_is() -> None:
    report = classification_metrics(*_data(2))
    assert "top2_accuracy" in report.scalars()
    assert "top5_accuracy" not in json.dumps(report.to_dict())
    assert "Top-2 accuracy" in report.to_text()
    assert any("top-5 was asked for; top-2 of 2 classes is always 1" in n for n in report.notes)


def test_equal_logits_are_the_first_class_in_accuracy_and_in_top_k() -> None:
    labels = torch.tensor([0, 1, 2, 3])
    report = classification_metrics(torch.zeros(4, 4), labels, top_k=2)
    assert (report.accuracy, report.top_k_accuracy) == (0.25, 0.5)


def test_a_class_without_images_is_left_out_with_a_word_and_gives_no_nan() -> None:
    logits, labels = _data(4, 3)
    report = classification_metrics(logits, labels, ["a", "b", "c", "owl\n"])
    owl = report.classes[3]
    assert (owl.support, owl.recall, owl.f1, owl.auroc, owl.average_precision) == (0, *[None] * 4)
    assert "1 of 4 classes have no test image" in report.notes[0]
    assert r"owl\n" in report.notes[0]
    assert "NaN" not in json.dumps(report.to_dict())
    json.dumps(report.to_dict(), allow_nan=False)
    assert "nan" not in report.to_text()


def test_images_of_one_class_only_have_no_auroc_and_no_kappa() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    report = classification_metrics(logits, torch.tensor([0, 0]))
    assert (report.accuracy, report.auroc, report.cohen_kappa, report.mcc) == (1.0, None, None, 0.0)
    assert "auroc" not in report.scalars()
    assert "AUROC              -" in report.to_text()


def test_auroc_is_one_for_a_perfect_order_and_a_half_for_equal_scores() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    perfect = classification_metrics(torch.tensor([[1.0, 0], [0, 1], [2, 0], [0, 0.5]]), labels)
    assert perfect.auroc == 1.0
    assert classification_metrics(torch.zeros(4, 2), labels).auroc == 0.5


def test_two_hundred_classes_with_few_images_work() -> None:
    report = classification_metrics(*_data(200, 150, count=400))
    assert len(report.classes) == 200
    assert all(math.isfinite(value) for value in report.scalars().values())
    assert "60 of 200 classes have no test image" in report.notes[0]


def test_huge_logits_of_half_precision_are_measured() -> None:
    logits = torch.tensor([[60000.0, -60000.0], [60000.0, -60000.0]], dtype=torch.float16)
    report = classification_metrics(logits, torch.tensor([0, 1]))
    assert report.log_loss == pytest.approx(60000.0, rel=1e-2)
    assert report.brier == 1.0


def test_the_interval_over_groups_is_wider_when_images_of_a_group_agree() -> None:
    labels = torch.zeros(200, dtype=torch.int64)
    logits = torch.zeros(200, 2)
    logits[:100, 0] = 1.0
    logits[100:, 1] = 1.0
    groups = [index // 10 for index in range(200)]
    single = classification_metrics(logits, labels).interval
    grouped = classification_metrics(logits, labels, groups=groups)
    assert grouped.interval.high - grouped.interval.low > 2 * (single.high - single.low)
    assert grouped.interval_method == "bootstrap over 20 groups of images"


def test_confusions_are_listed_by_number() -> None:
    labels = torch.tensor([0] * 4 + [1] * 2)
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 1, 0, 1]), 2).float()
    text = classification_metrics(logits, labels, ["cat", "dog"]).to_text()
    lines = text[text.index("Most frequent") :].splitlines()
    assert lines[2].split() == ["cat", "dog", "3", "75.0", "%"]
    assert lines[3].split() == ["dog", "cat", "1", "50.0", "%"]


def test_columns_stay_below_each_other_with_wide_letters() -> None:
    from rich.cells import cell_len

    report: ClassificationReport = classification_metrics(*_data(3), ["cat", "猫猫", "x" * 80])
    rows = [line for line in report.to_text().splitlines() if line.startswith(("cat  ", "猫", "x"))]
    assert len({cell_len(row) for row in rows[:3]}) == 1


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2).long(), r"\(3, 2\) and labels \(2,\)"),
        (torch.zeros(0, 2), torch.zeros(0).long(), "1 or more images"),
        (torch.zeros(3, 1), torch.zeros(3).long(), "2 or more classes"),
        (torch.zeros(3, 2), torch.zeros(3), "expected floats and integers"),
        (torch.tensor([[0, math.nan]]), torch.zeros(1).long(), "1 of 1 images are not finite"),
        (torch.zeros(1, 2), torch.tensor([2]), "from 2 to 2; expected 0 to 1"),
        (torch.zeros(1, 2), torch.tensor([-1]), "from -1 to -1"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    logits: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_predictions(logits, labels)


def test_names_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="1 class names for 2 columns"):
        classification_metrics(torch.zeros(1, 2), torch.tensor([0]), ["a"])


def test_the_order_of_near_certain_images_is_not_lost_in_rounding() -> None:
    logits = torch.tensor([[0.0, -40.0], [0.0, -50.0], [0.0, -60.0], [0.0, -45.0], [0.0, -800.0]])
    report = classification_metrics(logits, torch.tensor([1, 0, 0, 1, 0]))

    # Of two classes, one's order is the other's backwards.
    assert [scores.auroc for scores in report.classes] == [1.0, 1.0]
    assert [scores.average_precision for scores in report.classes] == [1.0, 1.0]
