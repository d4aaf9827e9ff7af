"""Predictions of several models, and their way through a CSV file."""

import csv
import statistics
from pathlib import Path

import pytest
import torch

from common.metrics import (
    classification_metrics,
    ensemble_logits,
    pooled_metrics,
    read_predictions,
    write_predictions,
)
from common.utils.errors import DataError

_WEIRD = [
    "raw/cat/plain.jpg",
    "raw/cat/comma, and space.jpg",
    'raw/cat/"quoted".jpg',
    "raw/cat/line\nend.jpg",
    "raw/cat/return\rhere.jpg",
    "raw/cat/crlf\r\n.jpg",
    "raw/cat/猫 é.jpg",
    b"raw/cat/no-utf8-\xff\xfe.jpg".decode("utf-8", "surrogateescape"),
    "raw/cat/ leading;semicolon\t.jpg",
    "1.5",
]


def _folds(count: int = 3) -> list[tuple[list[str], torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            [f"{fold}/{index}.png" for index in range(20 + fold)],
            torch.randn(20 + fold, 3, generator=generator),
            torch.randint(3, (20 + fold,), generator=generator),
        )
        for fold in range(count)
    ]


def test_an_ensemble_is_the_mean_of_softmax_probabilities() -> None:
    members = [torch.randn(6, 4) for _ in range(3)]
    expected = torch.stack([member.double().softmax(1) for member in members]).mean(0)
    torch.testing.assert_close(ensemble_logits(members).exp(), expected)


def test_members_of_different_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="one shape"):
        ensemble_logits([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(DataError, match="received none"):
        ensemble_logits([])


def test_weird_names_survive_the_file(tmp_path: Path) -> None:
    names = ["file", "p(x)", 'a "b", c', "行\n"]
    probabilities = torch.rand(len(_WEIRD), 4).softmax(1)
    labels = torch.tensor([0, 1, 2, 3, -1] * 2)
    path = tmp_path / "new" / "predictions.csv"
    write_predictions(path, _WEIRD, labels, probabilities, names)
    found = read_predictions(path)
    assert found.ids == tuple(_WEIRD)
    assert found.class_names == tuple(names)
    assert torch.equal(found.labels, labels)
    torch.testing.assert_close(found.probabilities.float(), probabilities, atol=1e-6, rtol=1e-5)


def test_any_csv_reader_finds_true_predicted_and_confidence(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    probabilities = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    write_predictions(path, ["a", "b"], torch.tensor([0, -1]), probabilities, ["cat", "dog"])
    with open(path, newline="") as file:
        first, second = list(csv.DictReader(file))
    assert first == {
        "file": "a",
        "true": "cat",
        "predicted": "dog",
        "confidence": "0.75",
        "p(cat)": "0.25",
        "p(dog)": "0.75",
    }
    assert (second["true"], second["predicted"]) == ("", "cat")
    write_predictions(path, ["a", "b"], None, probabilities, ["cat", "dog"])
    assert read_predictions(path).labels.tolist() == [-1, -1]


def test_lengths_that_differ_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="with 1 file names, 2 labels and 2 class names"):
        write_predictions(
            tmp_path / "p.csv", ["a"], torch.tensor([0, 1]), torch.rand(2, 2), ["a", "b"]
        )
    for text in ("", "a,b\n1,2\n", "file,true,predicted,confidence,p(a)\nx,b,a,1,1\n"):
        (tmp_path / "other.csv").write_text(text)
        with pytest.raises(DataError):
            read_predictions(tmp_path / "other.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_predictions(tmp_path / "missing.csv")


def test_pooled_metrics_are_those_of_all_images_at_once() -> None:
    folds = _folds()
    report = pooled_metrics(folds, ["a", "b", "c"])
    logits, labels = torch.cat([f[1] for f in folds]), torch.cat([f[2] for f in folds])
    assert report.pooled == classification_metrics(logits.double(), labels, ["a", "b", "c"])
    assert report.ids == tuple(name for fold in folds for name in fold[0])
    accuracies = [classification_metrics(z, y).accuracy for _, z, y in folds]
    spread = report.spread["accuracy"]
    assert spread.mean == pytest.approx(statistics.mean(accuracies))
    assert spread.deviation == pytest.approx(statistics.stdev(accuracies))
    assert spread.interval is not None
    assert spread.interval.low < spread.mean < spread.interval.high
    assert "All out-of-fold predictions together" in report.to_text()


def test_one_fold_has_no_deviation() -> None:
    spread = pooled_metrics(_folds(1)).spread["accuracy"]
    assert (spread.deviation, spread.interval) == (None, None)


def test_an_image_in_two_folds_is_refused() -> None:
    folds = _folds(2)
    folds[1][0][3] = folds[0][0][5]
    with pytest.raises(DataError, match=r"1 images are validated in more than one fold .*0/5\.png"):
        pooled_metrics(folds)
    with pytest.raises(DataError, match="no fold"):
        pooled_metrics([])
