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
from common.metrics.neighbors import Neighbors, nearest_neighbors
from common.metrics.predictions import (
    Predictions,
    ensemble_logits,
    read_predictions,
    write_predictions,
)
from common.metrics.retrieval import RetrievalReport, matches_of, retrieval_metrics
from common.metrics.text import BleuScore, corpus_bleu, exact_match, token_accuracy
from common.metrics.threshold import ThresholdCurve, sweep_thresholds

__all__ = [
    "BleuScore",
    "CalibrationReport",
    "ClassScores",
    "ClassificationReport",
    "CrossValidationReport",
    "Interval",
    "Neighbors",
    "Predictions",
    "ReliabilityBins",
    "RetrievalReport",
    "TemperatureScaling",
    "ThresholdCurve",
    "bootstrap_interval",
    "calibration_report",
    "classification_metrics",
    "corpus_bleu",
    "ensemble_logits",
    "exact_match",
    "frechet_distance",
    "matches_of",
    "mean_interval",
    "nearest_neighbors",
    "pooled_metrics",
    "read_predictions",
    "reliability_bins",
    "retrieval_metrics",
    "sweep_thresholds",
    "token_accuracy",
    "wilson_interval",
    "write_predictions",
]
