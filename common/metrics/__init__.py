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
from common.metrics.expansion import concatenate_embeddings, expand_queries
from common.metrics.frechet import frechet_distance
from common.metrics.intervals import (
    Interval,
    bootstrap_interval,
    mean_interval,
    wilson_interval,
)
from common.metrics.matches import Matches, find_matches, match_rows, union_matches
from common.metrics.matching import (
    MatchFold,
    MatchScores,
    MatchSweep,
    compute_scores,
    matching_curve,
    score_matches,
    sweep_matching,
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
from common.metrics.threshold import (
    BestThreshold,
    ThresholdCurve,
    best_pair_threshold,
    sweep_thresholds,
)

__all__ = [
    "BestThreshold",
    "BleuScore",
    "CalibrationReport",
    "ClassScores",
    "ClassificationReport",
    "CrossValidationReport",
    "Interval",
    "MatchFold",
    "MatchScores",
    "MatchSweep",
    "Matches",
    "Neighbors",
    "Predictions",
    "ReliabilityBins",
    "RetrievalReport",
    "TemperatureScaling",
    "ThresholdCurve",
    "best_pair_threshold",
    "bootstrap_interval",
    "calibration_report",
    "classification_metrics",
    "compute_scores",
    "concatenate_embeddings",
    "corpus_bleu",
    "ensemble_logits",
    "exact_match",
    "expand_queries",
    "find_matches",
    "frechet_distance",
    "match_rows",
    "matches_of",
    "matching_curve",
    "mean_interval",
    "nearest_neighbors",
    "pooled_metrics",
    "read_predictions",
    "reliability_bins",
    "retrieval_metrics",
    "score_matches",
    "sweep_matching",
    "sweep_thresholds",
    "token_accuracy",
    "union_matches",
    "wilson_interval",
    "write_predictions",
]
