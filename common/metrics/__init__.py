"""Metrics: what a number means is said by its formula."""

from common.metrics.frechet import frechet_distance
from common.metrics.text import BleuScore, corpus_bleu, exact_match, token_accuracy

__all__ = ["BleuScore", "corpus_bleu", "exact_match", "frechet_distance", "token_accuracy"]
