"""Multi-Similarity: pairs chosen by their rivals, then weighed by all of the batch.

Wang et al. 2019, 1904.06627, section 4. With S_ij the cosine of i and j, P_i the others of i's
class and N_i the examples of other classes, an anchor i keeps (mining)

    a negative j   if S_ij > min_{k in P_i} S_ik - epsilon
    a positive j   if S_ij < max_{k in N_i} S_ik + epsilon

and what is kept is weighed by the gradient of (the loss, its mean over the batch)

    1/alpha log(1 + sum_{kept positives} exp(-alpha (S_ij - base)))
    + 1/beta log(1 + sum_{kept negatives} exp( beta (S_ij - base)))
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from common.losses.known_gradient import through_products, with_known_gradient


class MultiSimilarityLoss(nn.Module):
    """The loss of a batch over the pairs it mines itself.

    Args:
        alpha: How much the hardest positives outweigh the others.
        beta: The same of negatives.
        base: lambda, the cosine where a pair begins to count.
        epsilon: How far short of the hardest rival a pair may fall and yet be kept.

    Raises:
        ValueError: for an alpha or beta that is not positive, or a negative epsilon.
    """

    def __init__(
        self, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, epsilon: float = 0.1
    ) -> None:
        super().__init__()
        if not (alpha > 0 and beta > 0 and epsilon >= 0):
            raise ValueError(
                f"alpha is {alpha}, beta {beta}, epsilon {epsilon}; expected two positive numbers "
                "and one of at least 0"
            )
        self.alpha, self.beta, self.base, self.epsilon = alpha, beta, base, epsilon

    def forward(
        self, embeddings: Float[Tensor, "B D"], labels: Int[Tensor, "B"]
    ) -> Float[Tensor, ""]:
        """The mean over all B anchors, in float32 also under autocast.

        An anchor that keeps no pair counts as 0; so does one without a positive or a negative.

        Args:
            embeddings: Of any length but zero.
            labels: Any integers.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            x = F.normalize(embeddings.float())
            with torch.no_grad():
                cosines = x @ x.T
                pulls, pushes = self._kept(cosines, labels)
                pull, pull_weights = _log_one_plus(pulls)
                push, push_weights = _log_one_plus(pushes)
                value = pull.mean() / self.alpha + push.mean() / self.beta
                if not x.requires_grad:
                    return value
                of_cosines = push_weights.sub_(pull_weights).mul_(1.0 / len(x))
                gradient = through_products(x, of_cosines)
        return with_known_gradient(x, value, gradient)

    def _kept(self, cosines: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The exponents of positives and of negatives; -inf for what is not kept.

        Pairs are left out, not chosen: a NaN compares as false, and it must reach the loss.
        """
        same = labels.unsqueeze(1) == labels
        no_positive = (~same).fill_diagonal_(True)
        hardest_positive = cosines.masked_fill(no_positive, torch.inf).amin(1, keepdim=True)
        hardest_negative = cosines.masked_fill(same, -torch.inf).amax(1, keepdim=True)
        easy_positive = cosines - self.epsilon >= hardest_negative
        easy_negative = cosines + self.epsilon <= hardest_positive
        pulls = (self.base - cosines).mul_(self.alpha)
        pushes = (cosines - self.base).mul_(self.beta)
        pulls.masked_fill_(no_positive.logical_or_(easy_positive), -torch.inf)
        pushes.masked_fill_(same.logical_or_(easy_negative), -torch.inf)
        return pulls, pushes


def _log_one_plus(exponents: Tensor) -> tuple[Tensor, Tensor]:
    """``log(1 + sum_j exp(e_ij))`` of each row and its gradient, in the memory of ``exponents``."""
    most = exponents.amax(1, keepdim=True).clamp_min_(0.0)
    exponentials = exponents.sub_(most).exp_()
    total = exponentials.sum(1, keepdim=True).add_(most.neg().exp_())
    return (most + total.log()).squeeze(1), exponentials.div_(total)
