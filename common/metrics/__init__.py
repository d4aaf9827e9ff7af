"""Metrics: what a number means is said by its formula."""

from common.metrics.calibration import (
    CalibrationReport,
    ReliabilityBins,
    TemperatureScaling,
    calibration_report,
    reliability_bins,
)
from common.metrics.classification import (
    ClassificationReport,
    ClassScores,
    classification_metrics,
)
from common.metrics.cross_validation import CrossValidationReport, pooled_metrics
from common.metrics.frechet import frechet_distance
from common.metrics.intervals import (
    Interval,
    bootstrap_interval,
    mean_interval,
    wilson_interval,
)
from common.metrics.predictions import (
    Predictions,
    ensemble_logits,
    read_predictions,
    write_predictions,
)
from common.metrics.text import BleuScore, corpus_bleu, exact_match, token_accuracy

__all__ = [
    "BleuScore",
    "CalibrationReport",
    "ClassScores",
    "ClassificationReport",
    "CrossValidationReport",
    "Interval",
    "Predictions",
    "ReliabilityBins",
    "TemperatureScaling",
    "bootstrap_interval",
    "calibration_report",
    "classification_metrics",
    "corpus_bleu",
    "ensemble_logits",
    "exact_match",
    "frechet_distance",
    "mean_interval",
    "pooled_metrics",
    "read_predictions",
    "reliability_bins",
    "token_accuracy",
    "wilson_interval",
    "write_predictions",
]
