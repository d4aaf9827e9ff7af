"""Losses: sums over what counts, with the weight to divide by."""

from common.losses.cross_entropy import label_smoothed_cross_entropy, linear_cross_entropy

__all__ = ["label_smoothed_cross_entropy", "linear_cross_entropy"]
