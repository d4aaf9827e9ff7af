"""Proxy-Anchor: one learned proxy a class, compared with the whole batch (Kim et al. 2020, 2003.13911).

Equation 4, with s the cosine of an embedding x and a proxy p, P the proxies, P+ those of which the batch
has an image, X_p+ the images of p's class and X_p- the others:

    1/|P+| sum_{p in P+} log(1 + sum_{x in X_p+} exp(-alpha (s(x, p) - delta)))
    1/|P|  sum_{p in P}  log(1 + sum_{x in X_p-} exp( alpha (s(x, p) + delta)))
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class ProxyAnchorLoss(nn.Module):
    """Pulls each class's images to its proxy and pushes all others away, the hardest most.

    The loss is of a batch as a whole, a sum over proxies and not over examples: splitting a batch into
    micro-batches makes another loss.

    Args:
        embedding_dim: Width D.
        num_classes: K.
        margin: delta, as a cosine.
        scale: alpha.

    Raises:
        ValueError: for sizes below 1, or a scale that is not positive.
    """

    def __init__(
        self, embedding_dim: int, num_classes: int, margin: float = 0.1, scale: float = 32.0
    ) -> None:
        super().__init__()
        if min(embedding_dim, num_classes) < 1 or not scale > 0:
            raise ValueError(
                f"embedding_dim is {embedding_dim}, num_classes {num_classes}, scale {scale}; "
                "expected at least 1, at least 1 and a positive number"
            )
        self.margin, self.scale = margin, scale
        self.proxies = nn.Parameter(torch.empty(num_classes, embedding_dim))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")

    def forward(
        self, embeddings: Float[Tensor, "B D"], labels: Int[Tensor, "B"]
    ) -> Float[Tensor, ""]:
        """The loss of a batch, in float32 also under autocast."""
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = F.normalize(embeddings.float()) @ F.normalize(self.proxies.float()).T
            is_own = F.one_hot(labels, len(self.proxies)).bool()
            pull = (-self.scale * (cosines - self.margin)).masked_fill(~is_own, -torch.inf)
            push = (self.scale * (cosines + self.margin)).masked_fill(is_own, -torch.inf)
            present = is_own.any(0).sum().clamp(min=1)
            return _log_one_plus(pull).sum() / present + _log_one_plus(push).mean()


def _log_one_plus(exponents: Tensor) -> Tensor:
    """``log(1 + sum_b exp(e_b))`` of each column, without overflow; 0 for a column of -inf."""
    one = exponents.new_zeros(1, exponents.shape[1])
    return torch.cat([one, exponents]).logsumexp(0)
