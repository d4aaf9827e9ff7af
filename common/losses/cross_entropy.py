"""Label-smoothed cross-entropy, as sums, and fused with the output layer of a large vocabulary.

Smoothing mixes the target with the uniform distribution over all V classes (Szegedy et al. 2015,
arXiv 1512.00567, section 7): loss = (1 - e) * -log p_y + e * mean over classes of -log p.

Both functions return sums and a weight instead of a mean: the trainer divides by the weight of
the whole batch, so that splitting a batch cannot change the gradient.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

Loss = tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]


def label_smoothed_cross_entropy(
    logits: Float[Tensor, "*N V"],
    target: Int[Tensor, "*N"],
    smoothing: float = 0.0,
    ignore_index: int = -100,
) -> Loss:
    """Sum of the label-smoothed cross-entropy over all targets that count.

    Args:
        logits: Scores of the classes.
        target: The right class, or ``ignore_index`` where there is nothing to predict.
        smoothing: The part e of the target that is spread over all classes.
        ignore_index: Target that counts neither for the loss nor for the weight.

    Returns:
        The loss in nats, the number of targets it sums over, and the unsmoothed negative
        log-likelihood (a metric, without gradient). All 0 where every target is ignored.
    """
    log_probs = F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float))
    counts = target != ignore_index
    right = target.masked_fill(~counts, 0).unsqueeze(-1)
    nll = (-log_probs.gather(-1, right).squeeze(-1)).where(counts, 0.0).sum()
    loss = nll
    if smoothing:
        spread = (-log_probs.mean(dim=-1)).where(counts, 0.0).sum()
        loss = (1 - smoothing) * nll + smoothing * spread
    return loss, counts.sum().to(loss.dtype), nll.detach()


def linear_cross_entropy(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    target: Int[Tensor, "N"],
    smoothing: float = 0.0,
    ignore_index: int = -100,
    chunk_size: int = 256,
) -> Loss:
    """``label_smoothed_cross_entropy(hidden @ weight.T, ...)`` without the (N, V) logits.

    The logits are formed for ``chunk_size`` rows at a time, and the gradient with them in the
    forward pass, so that a chunk is used while it is in the cache and then forgotten: three
    matrix products as ever, but N * V * 3 numbers less memory. Under autocast the products run in
    the low precision, the softmax and all sums in float32.

    Args:
        hidden: States before the output layer.
        weight: The output layer's matrix.
        target: The right class, or ``ignore_index`` where there is nothing to predict.
        smoothing: The part e of the target that is spread over all classes.
        ignore_index: Target that counts neither for the loss nor for the weight.
        chunk_size: Rows of logits that exist at a time.

    Returns:
        Loss, weight and unsmoothed negative log-likelihood, as above.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    needs_grad = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    with torch.autocast(device, enabled=False):
        loss, nll = _LinearCrossEntropy.apply(
            hidden, weight, target, smoothing, ignore_index, chunk_size, dtype, needs_grad
        )
    return loss, (target != ignore_index).sum().to(loss.dtype), nll


class _LinearCrossEntropy(torch.autograd.Function):
    """The loss of logits z = W h, row by row, with p = softmax(z):

        loss     = -log p_y + e (z_y - mean(z))
        dloss/dz = p - (1 - e) [class is y] - e / V

    The uniform part needs no pass over the logits: mean(z) is h . mean(W), so it adds -e mean(W)
    to the gradient of h and -e/V h to that of every row of W.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        smoothing: float,
        ignore_index: int,
        chunk_size: int,
        dtype: torch.dtype,
        needs_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        exact = torch.promote_types(dtype, torch.float32)
        matrix = weight.to(dtype)
        mean_row = weight.to(exact).mean(dim=0)
        counts = (target != ignore_index)[:, None]
        right = target[:, None].masked_fill(~counts, 0)
        # Rows that do not count become 0 here, which keeps them out of the gradient of W.
        states = hidden.to(dtype).where(counts, 0.0)

        loss = torch.zeros((), dtype=exact, device=hidden.device)
        nll = torch.zeros_like(loss)
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_weight = torch.zeros_like(weight, dtype=exact) if needs_grad else None

        for start in range(0, len(hidden), chunk_size):
            rows = slice(start, start + chunk_size)
            h, y, valid = states[rows], right[rows], counts[rows]
            z = h @ matrix.T
            log_p = F.log_softmax(z, dim=-1, dtype=exact)
            row_nll = (-log_p.gather(1, y)).where(valid, 0.0)
            nll += row_nll.sum()
            loss += row_nll.sum()
            if smoothing:
                z_y = z.gather(1, y).to(exact).where(valid, 0.0)
                loss += smoothing * (z_y.squeeze(1) - h.to(exact) @ mean_row).sum()

            if grad_hidden is not None and grad_weight is not None:
                grad_z = log_p.exp_()
                grad_z.scatter_add_(1, y, torch.full_like(row_nll, smoothing - 1))
                grad_z = grad_z.to(dtype)
                grad_h = (grad_z @ matrix).to(exact) - smoothing * mean_row
                grad_hidden[rows] = grad_h.where(valid, 0.0)
                if dtype == exact:
                    grad_weight.addmm_(grad_z.T, h)
                else:
                    grad_weight += grad_z.T @ h

        if grad_weight is not None:
            grad_weight -= smoothing / len(weight) * states.sum(dim=0, dtype=exact)
            ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, grad_nll: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            grad_hidden * grad_loss.to(grad_hidden.dtype),
            grad_weight * grad_loss.to(grad_weight.dtype),
            *[None] * 6,
        )
