"""Whether a classifier's confidence can be believed: reliability, ECE, temperature scaling.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599), sections 2 and 4.2.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.metrics.predictions import check_predictions
from common.utils.errors import DataError

_COLDEST, _HOTTEST = 0.01, 100.0  # temperatures looked at


@dataclass(frozen=True)
class ReliabilityBins:
    """Images by the confidence of their prediction, in bins ``(i/M, (i+1)/M]``.

    Attributes:
        edges: M + 1 numbers from 0 to 1.
        counts: Images in each bin.
        confidence: Mean confidence in each bin; ``None`` in an empty one.
        accuracy: Share of right predictions in each bin; ``None`` in an empty one.
        ece: ``sum_m n_m / N |accuracy_m - confidence_m|``.
        mce: The largest ``|accuracy_m - confidence_m|``.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    ece: float
    mce: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def reliability_bins(
    logits: Float[Tensor, "N K"], labels: Int[Tensor, "N"], bins: int = 15
) -> ReliabilityBins:
    """Sort predictions into bins of equal width by their confidence.

    Raises:
        DataError: if there is nothing to sort.
    """
    if bins < 1:
        raise DataError(f"bins is {bins}, expected 1 or more")
    logits, labels = check_predictions(logits, labels)
    confidence = logits.softmax(dim=1).amax(dim=1)
    # The first of equal logits is predicted, as in classification_metrics.
    predicted = logits.sort(dim=1, descending=True, stable=True).indices[:, 0]
    right = (predicted == labels).double()
    edges = torch.linspace(0.0, 1.0, bins + 1, dtype=torch.float64)
    place = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
    counts = place.bincount(minlength=bins)
    sums = place.bincount(confidence, minlength=bins).tolist()
    hits = place.bincount(right, minlength=bins).tolist()
    sizes = counts.tolist()
    gaps = [abs(h - s) for h, s in zip(hits, sums, strict=True)]
    return ReliabilityBins(
        edges=tuple(edges.tolist()),
        counts=tuple(sizes),
        confidence=tuple(s / n if n else None for s, n in zip(sums, sizes, strict=True)),
        accuracy=tuple(h / n if n else None for h, n in zip(hits, sizes, strict=True)),
        ece=math.fsum(gaps) / len(labels),
        mce=max(gap / n for gap, n in zip(gaps, sizes, strict=True) if n),
    )


@dataclass(frozen=True)
class TemperatureScaling:
    """One number that divides all logits so that confidence fits accuracy.

    The predicted class never changes. Fit it on validation data and apply it to the test set.

    Attributes:
        temperature: Above 1 the model was overconfident.
        images: Images it was fitted on.
        nll_before: Mean negative log-likelihood of those images at temperature 1.
        nll_after: At ``temperature``; never higher.
        note: Why the temperature is no minimum, or empty.
    """

    temperature: float
    images: int
    nll_before: float
    nll_after: float
    note: str = ""

    @classmethod
    def fit(cls, logits: Float[Tensor, "N K"], labels: Int[Tensor, "N"]) -> "TemperatureScaling":
        """Find the temperature with the lowest negative log-likelihood.

        The likelihood is convex in the inverse temperature ``b``, so the root of its derivative
        ``mean(E_p[z] - z_y)`` is the minimum. Data without one keeps temperature 1 and a note says
        why: where every image is classified right, confidence without limit would fit best.

        Args:
            logits: Of images the model was not trained on.
            labels: Their true classes.

        Raises:
            DataError: if the logits or labels cannot be measured.
        """
        from scipy.optimize import brentq

        logits, labels = check_predictions(logits, labels)
        # The same for every temperature, and no exponential overflows.
        logits = logits - logits.amax(dim=1, keepdim=True)
        of_label = logits.gather(1, labels[:, None])[:, 0]

        def slope(log_temperature: float) -> float:
            p = (logits / math.exp(log_temperature)).softmax(dim=1)
            return float(((p * logits).sum(dim=1) - of_label).mean())

        def nll(temperature: float) -> float:
            scaled = logits / temperature
            return float((scaled.logsumexp(dim=1) - of_label / temperature).mean())

        low, high = math.log(_COLDEST), math.log(_HOTTEST)
        temperature, note = 1.0, ""
        if not logits.any():
            note = "all logits of an image are equal; no temperature changes them"
        elif slope(low) <= 0.0:
            note = (
                "(nearly) every image is classified right, so no temperature fits best; "
                "confidence is left as it is"
            )
        elif slope(high) >= 0.0:
            temperature = _HOTTEST
            note = "the logits say nothing about the labels; the highest temperature was taken"
        else:
            temperature = math.exp(brentq(slope, low, high, xtol=1e-10))
        before, after = nll(1.0), nll(temperature)
        if after > before:  # by rounding only
            temperature, after = 1.0, before
        return cls(temperature, len(labels), before, after, note)

    def apply(self, logits: Float[Tensor, "N K"]) -> Float[Tensor, "N K"]:
        """Logits divided by the temperature."""
        return logits / self.temperature


@dataclass(frozen=True)
class CalibrationReport:
    """The effect of temperature scaling on images it was not fitted on.

    Attributes:
        scaling: What was fitted.
        ece_before: Expected calibration error at temperature 1.
        ece_after: At the fitted temperature.
        nll_before: Mean negative log-likelihood in nats at temperature 1.
        nll_after: At the fitted temperature.
        bins: Number of bins of both errors.
    """

    scaling: TemperatureScaling
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float
    bins: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def calibration_report(
    scaling: TemperatureScaling,
    logits: Float[Tensor, "N K"],
    labels: Int[Tensor, "N"],
    bins: int = 15,
) -> CalibrationReport:
    """Compare calibration before and after scaling.

    Args:
        scaling: Fitted on other images.
        logits: Of the images to measure on.
        labels: Their true classes.
        bins: Of the expected calibration error.

    Raises:
        DataError: if the logits or labels cannot be measured.
    """
    logits, labels = check_predictions(logits, labels)
    scaled = scaling.apply(logits)
    cross_entropy = torch.nn.functional.cross_entropy
    return CalibrationReport(
        scaling=scaling,
        ece_before=reliability_bins(logits, labels, bins).ece,
        ece_after=reliability_bins(scaled, labels, bins).ece,
        nll_before=float(cross_entropy(logits, labels)),
        nll_after=float(cross_entropy(scaled, labels)),
        bins=bins,
    )
