"""Losses: sums over what counts, with the weight to divide by.

Names are imported when they are first used, so that a configuration waits for no PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.losses.angular import AngularMarginHead, adaptive_margins
    from common.losses.balance import class_weights
    from common.losses.classification import CrossEntropy, FocalLoss, expected_hits, soft_targets
    from common.losses.config import LossConfig, build_loss
    from common.losses.contrastive import NTXentLoss, SupervisedNTXentLoss
    from common.losses.cross_entropy import label_smoothed_cross_entropy, linear_cross_entropy
    from common.losses.kl import kl_to_standard_normal
    from common.losses.margin_heads import ArcFace, CosFace, CurricularFace, SubcenterArcFace
    from common.losses.multi_similarity import MultiSimilarityLoss
    from common.losses.proxy import ProxyAnchorLoss
    from common.losses.triplet import TripletMarginLoss

_HOMES = {
    "AngularMarginHead": "angular",
    "adaptive_margins": "angular",
    "class_weights": "balance",
    "CrossEntropy": "classification",
    "FocalLoss": "classification",
    "expected_hits": "classification",
    "soft_targets": "classification",
    "LossConfig": "config",
    "build_loss": "config",
    "NTXentLoss": "contrastive",
    "SupervisedNTXentLoss": "contrastive",
    "label_smoothed_cross_entropy": "cross_entropy",
    "linear_cross_entropy": "cross_entropy",
    "kl_to_standard_normal": "kl",
    "ArcFace": "margin_heads",
    "CosFace": "margin_heads",
    "CurricularFace": "margin_heads",
    "SubcenterArcFace": "margin_heads",
    "MultiSimilarityLoss": "multi_similarity",
    "ProxyAnchorLoss": "proxy",
    "TripletMarginLoss": "triplet",
}

__all__ = [
    "AngularMarginHead",
    "ArcFace",
    "CosFace",
    "CrossEntropy",
    "CurricularFace",
    "FocalLoss",
    "LossConfig",
    "MultiSimilarityLoss",
    "NTXentLoss",
    "ProxyAnchorLoss",
    "SubcenterArcFace",
    "SupervisedNTXentLoss",
    "TripletMarginLoss",
    "adaptive_margins",
    "build_loss",
    "class_weights",
    "expected_hits",
    "kl_to_standard_normal",
    "label_smoothed_cross_entropy",
    "linear_cross_entropy",
    "soft_targets",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
