"""Losses: sums over what counts, with the weight to divide by."""

from common.losses.cross_entropy import label_smoothed_cross_entropy, linear_cross_entropy
from common.losses.kl import kl_to_standard_normal

__all__ = ["kl_to_standard_normal", "label_smoothed_cross_entropy", "linear_cross_entropy"]
