"""Calibration by hand, against torchmetrics, and against a search over a grid."""

import json
import math

import numpy as np
import pytest
import torch

from common.metrics import TemperatureScaling, calibration_report, reliability_bins
from common.utils.errors import DataError


def _overconfident(
    scale: float, classes: int = 4, count: int = 600, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels drawn from the model's own probabilities, and logits ``scale`` times too large."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(count, classes, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return scale * logits, labels


def _nll(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    return float(torch.nn.functional.cross_entropy(logits.double() / temperature, labels))


def test_ece_by_hand() -> None:
    """Confidences .9 right, .9 wrong, .6 right: gaps .4 of two images and .4 of one."""
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], dtype=torch.float64)
    bins = reliability_bins(p.log(), torch.tensor([0, 1, 1]), bins=10)
    assert bins.ece == pytest.approx((2 * 0.4 + 1 * 0.4) / 3)
    assert bins.mce == pytest.approx(0.4)
    assert sum(bins.counts) == 3
    assert [a for a in bins.accuracy if a is not None] == [1.0, 0.5]
    assert bins.accuracy[0] is None
    json.dumps(bins.to_dict(), allow_nan=False)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_ece_is_the_value_torchmetrics_computes(classes: int) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = _overconfident(2.0, classes)
    for norm, ours in (("l1", "ece"), ("max", "mce")):
        expected = multiclass_calibration_error(
            logits.double().softmax(1), labels, classes, n_bins=15, norm=norm
        )
        assert getattr(reliability_bins(logits, labels), ours) == pytest.approx(
            float(expected), abs=1e-6
        )


def test_certain_predictions_fall_into_the_last_bin() -> None:
    bins = reliability_bins(torch.tensor([[1e4, 0.0], [1e4, 0.0]]), torch.tensor([0, 1]), bins=5)
    assert bins.counts == (0, 0, 0, 0, 2)
    assert bins.ece == 0.5


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_the_temperature_is_the_best_of_a_fine_grid(scale: float, classes: int) -> None:
    logits, labels = _overconfident(scale, classes)
    scaling = TemperatureScaling.fit(logits, labels)
    grid = np.arange(0.9, 1.1, 1e-4) * scaling.temperature
    best = grid[int(np.argmin([_nll(logits, labels, t) for t in grid]))]
    assert scaling.temperature == pytest.approx(best, abs=1e-4 * scaling.temperature)
    assert scaling.temperature == pytest.approx(scale, rel=0.2)
    wide = np.geomspace(0.05, 50, 60)
    assert scaling.nll_after <= min(_nll(logits, labels, t) for t in wide) + 1e-12
    assert scaling.nll_before == pytest.approx(_nll(logits, labels, 1.0))
    assert scaling.nll_after == pytest.approx(_nll(logits, labels, scaling.temperature))
    assert scaling.note == ""


@pytest.mark.parametrize("seed", range(20))
def test_it_never_fits_its_own_data_worse_than_no_scaling(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 10 ** (2 * torch.rand(1, generator=generator) - 1) * torch.randn(
        12, 3, generator=generator
    )
    labels = torch.randint(3, (12,), generator=generator)
    scaling = TemperatureScaling.fit(logits, labels)
    assert scaling.nll_after <= scaling.nll_before
    assert 0.01 <= scaling.temperature <= 100


@pytest.mark.parametrize(
    ("logits", "temperature", "note"),
    [
        (torch.tensor([[5.0, 0.0], [0.0, 5.0]]), 1.0, "classified right"),
        (torch.zeros(2, 2), 1.0, "equal"),
        (torch.tensor([[0.0, 5.0], [5.0, 0.0]]), 100.0, "say nothing"),
    ],
)
def test_data_without_a_best_temperature_says_so(
    logits: torch.Tensor, temperature: float, note: str
) -> None:
    scaling = TemperatureScaling.fit(logits, torch.tensor([0, 1]))
    assert scaling.temperature == temperature
    assert note in scaling.note
    assert scaling.nll_after <= scaling.nll_before


def test_huge_logits_do_not_overflow() -> None:
    logits, labels = _overconfident(1e4)
    scaling = TemperatureScaling.fit(logits, labels)
    assert math.isfinite(scaling.nll_after)
    assert scaling.temperature == 100.0


def test_scaling_lowers_the_error_of_images_it_never_saw_and_keeps_their_classes() -> None:
    scaling = TemperatureScaling.fit(*_overconfident(4.0, seed=1))
    logits, labels = _overconfident(4.0, seed=2)
    report = calibration_report(scaling, logits, labels)
    assert report.ece_after < 0.5 * report.ece_before
    assert report.nll_after < report.nll_before
    assert torch.equal(scaling.apply(logits).argmax(1), logits.argmax(1))
    json.dumps(report.to_dict(), allow_nan=False)


def test_no_bins_are_refused() -> None:
    with pytest.raises(DataError, match="bins is 0"):
        reliability_bins(torch.zeros(1, 2), torch.tensor([0]), bins=0)
