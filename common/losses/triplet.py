"""Triplets found in a batch: an anchor, an image of its class, an image of another.

    max(0, d(a, p) - d(a, n) + margin)      Schroff et al. 2015, 1503.03832, equation 3

``distance`` is Euclidean, ``squared`` its square, both of embeddings of length one. How the triplets are
chosen (``mining``):

    batch_hard   for every anchor the farthest positive and the nearest negative (1703.07737, equation 5)
    semi_hard    every pair, with the nearest negative that is farther than the positive and within the
                 margin (1503.03832, equation 4); pairs without one are left out
    distance_weighted   every pair, with a negative drawn with probability 1 / q(d), q being the density of
                 distances between random points on the sphere (1706.07567, section 3.2)
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.utils.text import did_you_mean

MININGS = ("batch_hard", "semi_hard", "distance_weighted")
_NEAREST, _FARTHEST = 0.5, 1.4  # distances between which distance_weighted draws (section 3.2)


class TripletOutput(NamedTuple):
    """What the triplets of a batch come to.

    Attributes:
        loss: The mean over triplets; 0 without any.
        triplets: How many there are.
        active: The share of them with a positive loss: near 0 the batch teaches nothing.
        positive_distance: Mean distance to the positives, not squared; NaN without triplets.
        negative_distance: Mean distance to the negatives.
    """

    loss: Float[Tensor, ""]
    triplets: int
    active: Float[Tensor, ""]
    positive_distance: Float[Tensor, ""]
    negative_distance: Float[Tensor, ""]


class TripletMarginLoss(nn.Module):
    """The triplet loss over what ``mining`` finds.

    Args:
        margin: Of distances, or of their squares.
        mining: One of ``MININGS``.
        squared: Whether the margin is between squared distances.

    Raises:
        ValueError: for another mining, or a margin that is not positive.
    """

    def __init__(
        self, margin: float = 0.2, mining: str = "batch_hard", squared: bool = False
    ) -> None:
        super().__init__()
        if mining not in MININGS:
            raise ValueError(f"mining is '{mining}'; {did_you_mean(mining, MININGS)}")
        if not margin > 0:
            raise ValueError(f"margin is {margin}; expected a positive number")
        self.margin, self.mining, self.squared = margin, mining, squared

    def forward(self, embeddings: Float[Tensor, "B D"], labels: Int[Tensor, "B"]) -> TripletOutput:
        """The loss of a batch, in float32 also under autocast."""
        with torch.autocast(embeddings.device.type, enabled=False):
            distances = pairwise_distances(F.normalize(embeddings.float()))
            with torch.no_grad():
                anchors, positives, negatives = self._mine(distances, labels, embeddings.shape[1])
            to_positive = distances[anchors, positives]
            to_negative = distances[anchors, negatives]
            gap = (
                to_positive.square() - to_negative.square()
                if self.squared
                else to_positive - to_negative
            )
            terms = (gap + self.margin).relu()
            loss = terms.mean() if len(terms) else distances.sum() * 0.0
        is_active = (terms.detach() > 0).float()
        return TripletOutput(
            loss,
            len(terms),
            is_active.mean() if len(terms) else is_active.sum(),
            to_positive.detach().mean(),
            to_negative.detach().mean(),
        )

    def _mine(self, distances: Tensor, labels: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        same = labels[:, None] == labels[None, :]
        positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        if self.mining == "batch_hard":
            anchors = (positive.any(1) & (~same).any(1)).nonzero().squeeze(1)
            farthest = distances.masked_fill(~positive, -torch.inf).argmax(1)[anchors]
            nearest = distances.masked_fill(same, torch.inf).argmin(1)[anchors]
            return anchors, farthest, nearest
        anchors, positives = positive.nonzero().unbind(1)
        if self.mining == "semi_hard":
            return self._semi_hard(distances, same, anchors, positives)
        weights = _inverse_density(distances, dim).masked_fill(same, 0.0)
        usable = weights.sum(1)[anchors] > 0
        anchors, positives = anchors[usable], positives[usable]
        if not len(anchors):
            return anchors, positives, anchors
        return anchors, positives, torch.multinomial(weights[anchors], 1).squeeze(1)

    def _semi_hard(
        self, distances: Tensor, same: Tensor, anchors: Tensor, positives: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        compared = distances.square() if self.squared else distances
        rows, own = compared[anchors], compared[anchors, positives][:, None]
        usable = ~same[anchors] & (rows > own) & (rows < own + self.margin)
        nearest = rows.masked_fill(~usable, torch.inf).argmin(1)
        found = usable.any(1)
        return anchors[found], positives[found], nearest[found]


def _inverse_density(distances: Tensor, dim: int) -> Tensor:
    """1 / q(d) with q(d) ~ d^(D-2) (1 - d^2/4)^((D-3)/2), rows scaled to a maximum of one.

    Distances below ``_NEAREST`` count as that, and beyond ``_FARTHEST`` nothing is drawn.
    """
    near = distances.clamp(min=_NEAREST)
    log_density = (dim - 2) * near.log() + (dim - 3) / 2 * (1.0 - near.square() / 4).log()
    weights = (-log_density).masked_fill(distances > _FARTHEST, -torch.inf)
    highest = weights.amax(1, keepdim=True)
    return (weights - highest.masked_fill(highest.isinf(), 0.0)).exp()


def pairwise_distances(x: Float[Tensor, "B D"]) -> Float[Tensor, "B B"]:
    """Euclidean distances between rows of length one, with a finite gradient where they are 0."""
    squares = (2.0 - 2.0 * (x @ x.T)).clamp_min(0.0)
    zero = squares <= 1e-12
    return squares.masked_fill(zero, 1e-12).sqrt().masked_fill(zero, 0.0)
