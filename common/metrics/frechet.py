"""Distance between two sets of features as if both were Gaussian.

Source: Fréchet 1957; Dowson & Landau 1982; for images Heusel et al. 2017 (arXiv 1706.08500), eq. 6.
It is called FID only with the features of one particular Inception network.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from common.utils.errors import DataError


def frechet_distance(first: Float[Tensor, "N D"], second: Float[Tensor, "M D"]) -> float:
    """|m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), in float64.

    With few examples it is too large: sets of the same distribution have a distance above 0, so
    compare only values of sets of the same sizes.

    Args:
        first: Features of one set, a row for each example.
        second: Features of the other.

    Raises:
        DataError: if a set has fewer than two examples, or holds values that are not finite.
    """
    for features in (first, second):
        if len(features) < 2:
            raise DataError(f"a set has {len(features)} examples; a covariance needs 2 or more")
        if not features.isfinite().all():
            raise DataError("features hold values that are not finite")
    a, b = first.double(), second.double()
    root = _square_root(_covariance(a))
    # tr (C_1 C_2)^(1/2) = tr (R C_2 R)^(1/2) with R = C_1^(1/2), and R C_2 R is symmetric.
    product = torch.linalg.eigvalsh(root @ _covariance(b) @ root).clamp(min=0.0).sqrt().sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float(means + a.var(0).sum() + b.var(0).sum() - 2.0 * product)


def _square_root(matrix: Float[Tensor, "D D"]) -> Float[Tensor, "D D"]:
    """Of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=0.0).sqrt()) @ vectors.T


def _covariance(features: Float[Tensor, "N D"]) -> Float[Tensor, "D D"]:
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)
