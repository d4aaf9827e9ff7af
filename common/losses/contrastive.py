"""NT-Xent: each embedding finds its positive among all others of the batch.

Chen et al. 2020, SimCLR, 2002.05709, equation 1. With s_ij the cosine of i and j and t the
temperature, for a positive pair (i, j)

    l_ij = -log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t))

``NTXentLoss`` takes two views of every image, so that k runs over one positive and all others.
``SupervisedNTXentLoss`` takes labels; there k runs over j and the negatives of i, so that the other
positives of i, which are right answers too, are no competitors.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.losses.known_gradient import through_products, with_known_gradient

_EXPONENTS = 80.0  # exp of -80 to 0 is a normal number in float32


class NTXentLoss(nn.Module):
    """The mean of l_ij over the 2B positive pairs (i, j) and (j, i) that two views make.

    Args:
        temperature: t; 0.1 is the best of the paper's table 5.

    Raises:
        ValueError: for a temperature that is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = _positive(temperature)

    def forward(
        self, first: Float[Tensor, "B D"], second: Float[Tensor, "B D"]
    ) -> Float[Tensor, ""]:
        """The loss of a batch, in float32 also under autocast.

        Args:
            first: One view of every image, of any length but zero.
            second: The other view of the same images, in the same order.

        Raises:
            ValueError: if the two differ in shape.
        """
        if first.shape != second.shape:
            raise ValueError(
                f"the views have the shapes {tuple(first.shape)} and {tuple(second.shape)}; "
                "expected the same images in both"
            )
        with torch.autocast(first.device.type, enabled=False):
            x = F.normalize(torch.cat([first.float(), second.float()]))
            with torch.no_grad():
                value, gradient = _two_views(x, self.temperature, x.requires_grad)
        return value if gradient is None else with_known_gradient(x, value, gradient)


class SupervisedNTXentLoss(nn.Module):
    """The mean of l_ij over all pairs of equal labels, each against i's negatives; 0 without any.

    With two examples of every label it is ``NTXentLoss`` of them.

    Args:
        temperature: t.

    Raises:
        ValueError: for a temperature that is not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = _positive(temperature)

    def forward(
        self, embeddings: Float[Tensor, "B D"], labels: Int[Tensor, "B"]
    ) -> Float[Tensor, ""]:
        """The loss of a batch, in float32 also under autocast.

        Args:
            embeddings: Of any length but zero.
            labels: Any integers.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            x = F.normalize(embeddings.float())
            with torch.no_grad():
                value, gradient = _by_label(x, labels, self.temperature, x.requires_grad)
        return value if gradient is None else with_known_gradient(x, value, gradient)


def _two_views(x: Tensor, temperature: float, backward: bool) -> tuple[Tensor, Tensor | None]:
    """The loss of 2B rows of length one, of which i and i + B are a pair, and its gradient.

    With P the softmax of each row without its diagonal and Y the pairs, the gradient of the logits
    is (P - Y) / 2B. They are symmetric, and so P + P^T needs no transpose.
    """
    rows, pairs = len(x), len(x) // 2
    logits = x @ x.T
    if 2.0 / temperature <= _EXPONENTS:
        # No exponent is too small for the bound 1 / t to stand in for each row's maximum, and one
        # exponential serves both directions: P + P^T = E (1 / sum_i + 1 / sum_j).
        exponents = logits.sub_(1.0).mul_(1.0 / temperature)
        own = exponents.diagonal(pairs).sum()
        exponentials = exponents.exp_().fill_diagonal_(0.0)
        sums = exponentials.sum(1)
        total = sums.log().sum()
        if backward:
            inverse = sums.reciprocal()
            both = exponentials * (inverse + inverse.unsqueeze(1))
    else:
        logits.mul_(1.0 / temperature)
        own = logits.diagonal(pairs).sum()
        logits.fill_diagonal_(-torch.inf)
        sums = logits.logsumexp(1)
        total = sums.sum()
        if backward:
            both = (logits - sums).exp_().add_(logits.sub_(sums.unsqueeze(1)).exp_())
    value = (total - 2.0 * own) / rows
    if not backward:
        return value, None
    both.diagonal(pairs).sub_(2.0)
    both.diagonal(-pairs).sub_(2.0)
    return value, (both @ x).mul_(1.0 / (temperature * rows))


def _by_label(
    x: Tensor, labels: Tensor, temperature: float, backward: bool
) -> tuple[Tensor, Tensor | None]:
    """The same for every pair of equal labels, with N_i the log-sum-exp over the negatives of i:

    l_ij = softplus(N_i - s_ij / t), and with q its derivative the gradient of logit ij is -q_ij for
    a pair and sum_p q_ip exp(s_ij / t - N_i) for a negative.
    """
    logits = (x @ x.T).mul_(1.0 / temperature)
    same = labels.unsqueeze(1) == labels
    positive = same.clone().fill_diagonal_(False)
    anchors, others = positive.nonzero().unbind(1)
    own = logits[anchors, others]
    negatives = logits.masked_fill_(same, -torch.inf)
    sums = negatives.logsumexp(1)
    gaps = sums[anchors] - own
    count = max(len(gaps), 1)
    value = F.softplus(gaps).sum() / count
    if not backward:
        return value, None
    slopes = gaps.sigmoid()
    shares = slopes.new_zeros(len(x)).index_add_(0, anchors, slopes)
    # Without a negative the sum is -inf, and there is nothing to share.
    finite = sums.masked_fill(sums == -torch.inf, 0.0)
    of_logits = negatives.sub_(finite.unsqueeze(1)).exp_().mul_(shares.unsqueeze(1))
    of_logits[anchors, others] = -slopes
    return value, through_products(x, of_logits).mul_(1.0 / (temperature * count))


def _positive(temperature: float) -> float:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; expected a positive number")
    return temperature
