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

from common.losses.known_gradient import through_products, with_known_gradient
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
            x = F.normalize(embeddings.float())
            with torch.no_grad():
                output, gradient = self._with_gradient(x, labels, x.requires_grad)
        if gradient is None:
            return output
        return output._replace(loss=with_known_gradient(x, output.loss, gradient))

    def _with_gradient(
        self, x: Tensor, labels: Tensor, backward: bool
    ) -> tuple[TripletOutput, Tensor | None]:
        """The output for rows of length one, and the gradient of its loss.

        With s the cosine, a distance is ``sqrt(2 - 2 s)`` and its derivative ``-1 / distance``;
        where the distance is 0 there is none, and it counts as 0. That of the square is -2.
        """
        distances = pairwise_distances(x)
        triplets = self._mine(distances, labels, x.shape[1])
        anchors, positives, negatives = triplets
        to_positive, to_negative = distances[anchors, positives], distances[anchors, negatives]
        if self.squared:
            gap = to_positive.square() - to_negative.square()
        else:
            gap = to_positive - to_negative
        terms = gap.add_(self.margin).relu_()
        is_active = (terms > 0).float()
        count = max(len(terms), 1)
        output = TripletOutput(
            # What is NaN is compared with nothing and so never mined; it must reach the loss.
            terms.sum() / count + x.sum() * 0.0,
            len(terms),
            is_active.sum() / count,
            to_positive.mean(),
            to_negative.mean(),
        )
        if not backward:
            return output, None
        slopes = is_active.mul_(1.0 / count)
        of_cosines = x.new_zeros(len(x) * len(x))
        for others, far, sign in ((positives, to_positive, -1.0), (negatives, to_negative, 1.0)):
            change = slopes * 2.0 if self.squared else (slopes / far).masked_fill_(far == 0, 0.0)
            of_cosines.index_add_(0, anchors * len(x) + others, change, alpha=sign)
        return output, through_products(x, of_cosines.view(len(x), len(x)))

    def _mine(self, distances: Tensor, labels: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
        same = labels.unsqueeze(1) == labels
        if self.mining == "batch_hard":
            no_positive = (~same).fill_diagonal_(True)
            far, farthest = distances.masked_fill(no_positive, -torch.inf).max(1)
            near, nearest = distances.masked_fill(same, torch.inf).min(1)
            anchors = ((far > -torch.inf) & (near < torch.inf)).nonzero().squeeze(1)
            return anchors, farthest[anchors], nearest[anchors]
        anchors, positives = same.clone().fill_diagonal_(False).nonzero().unbind(1)
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


@torch.no_grad()
def pairwise_distances(x: Float[Tensor, "B D"]) -> Float[Tensor, "B B"]:
    """Euclidean distances between rows of length one; below 1e-6 they are 0. Without a gradient."""
    squares = (x @ x.T).mul_(-2.0).add_(2.0)
    return F.threshold(squares, 1e-12, 0.0, inplace=True).sqrt_()
