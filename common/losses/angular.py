"""Class centres on a sphere, and a margin between them: one head for the whole ArcFace family.

With the embedding x and the centre w_c of class c both of length one, cos_c = <x, w_c>, the angle
theta_c = arccos cos_c, y the true class and s the scale, the loss is the cross-entropy of s z:

    arcface      z_y = cos(theta_y + m)            Deng et al. 2018, 1801.07698, equation 3
    cosface      z_y = cos_y - m                   Wang et al. 2018, 1801.09414, equation 4
    curricular   as arcface, and for c != y with cos_c > z_y
                 z_c = cos_c (t + cos_c)           Huang et al. 2020, 2004.00288, equations 5 to 8

Sub-centers (Deng et al., ECCV 2020) give a class several centres, of which the nearest counts.
Everything is computed in float32, also under autocast: near the poles half precision has no angle.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from common.utils.text import did_you_mean

KINDS = ("arcface", "cosface", "curricular")
_FEWEST_FOR_AUTO = 3  # ln(C - 1) is 0 for two classes
_MOMENTUM = 0.99  # of curricular's t


class MarginOutput(NamedTuple):
    """What a batch comes to.

    Attributes:
        loss: The sum over examples of their cross-entropy, each times its class's weight.
        weight: What to divide it by: the examples, or the sum of their classes' weights.
        cosines: ``(B, K)`` to the nearest centre of each class, without margin and scale, detached:
            an accuracy read from them is the one the network has without its handicap.
    """

    loss: Float[Tensor, ""]
    weight: Float[Tensor, ""] | int
    cosines: Float[Tensor, "B K"]


class AngularMarginHead(nn.Module):
    """Centres of K classes and the loss of embeddings against them.

    Args:
        embedding_dim: Width D of the embeddings; they need not have length one.
        num_classes: K.
        kind: One of ``KINDS``.
        margin: m, in radians (arcface, curricular) or as a cosine (cosface); one number, or one
            for each class, e.g. from ``adaptive_margins``.
        scale: s; ``auto`` is the fixed AdaCos start sqrt(2) ln(K - 1) (Zhang et al. 2019,
            1905.00292, equation 9).
        learnable_scale: Whether s is trained.
        num_centers: Centres of each class.
        class_weights: One for each class; the loss is then ``sum w l / sum w``.

    Raises:
        ValueError: for values without a meaning, naming them.
    """

    centers: nn.Parameter
    margins: Tensor
    hardness: Tensor
    class_weights: Tensor | None

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        *,
        kind: str = "arcface",
        margin: float | Sequence[float] = 0.5,
        scale: float | str = "auto",
        learnable_scale: bool = False,
        num_centers: int = 1,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind is '{kind}'; {did_you_mean(kind, KINDS)}")
        if min(embedding_dim, num_centers) < 1 or num_classes < 2:
            raise ValueError(
                f"embedding_dim is {embedding_dim}, num_classes {num_classes}, num_centers "
                f"{num_centers}; expected at least 1, 2 and 1"
            )
        self.kind, self.num_classes, self.num_centers = kind, num_classes, num_centers
        self.centers = nn.Parameter(torch.empty(num_classes * num_centers, embedding_dim))
        nn.init.xavier_uniform_(self.centers)
        self.register_buffer("margins", _margins(margin, num_classes, kind))
        start = torch.tensor(_scale(scale, num_classes))
        if learnable_scale:
            self.scale = nn.Parameter(start)
        else:
            self.register_buffer("scale", start)
        if class_weights is not None and len(class_weights) != num_classes:
            raise ValueError(
                f"there are {len(class_weights)} class weights for {num_classes} classes"
            )
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("hardness", torch.zeros(()))  # curricular's t

    def forward(self, embeddings: Float[Tensor, "B D"], labels: Int[Tensor, "B"]) -> MarginOutput:
        """The loss of a batch.

        Args:
            embeddings: Of any length but zero, where no direction is defined.
            labels: 0 to K - 1.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = self.cosines(embeddings)
            target = labels.unsqueeze(1)
            z = self._with_margin(cosines, target, labels)
            # What is not trained is not kept, and a margin left a matrix of its own to write to.
            logits = self.scale * z if self.scale.requires_grad else z.mul_(self.scale)
            loss = F.cross_entropy(logits, labels, self.class_weights, reduction="sum")
        counted = len(labels) if self.class_weights is None else self.class_weights[labels].sum()
        return MarginOutput(loss, counted, cosines.detach())

    def cosines(self, embeddings: Float[Tensor, "B D"]) -> Float[Tensor, "B K"]:
        """The cosine of the angle to the nearest centre of each class."""
        every = self._to_every_center(embeddings)
        if self.num_centers == 1:
            return every
        return every.unflatten(1, (self.num_classes, self.num_centers)).amax(2)

    @torch.no_grad()
    def dominant_angles(
        self, embeddings: Float[Tensor, "N D"], labels: Int[Tensor, "N"]
    ) -> Float[Tensor, "N"]:
        """Degrees between each example and the centre to which most examples of its class belong.

        Of what lies more than 75 degrees away most is mislabelled (ECCV 2020, section 3.3).
        """
        every = self._to_every_center(embeddings)
        own = every.unflatten(1, (self.num_classes, self.num_centers))[
            torch.arange(len(labels), device=labels.device), labels
        ]
        votes = own.new_zeros(self.num_classes, self.num_centers)
        votes.index_put_((labels, own.argmax(1)), own.new_ones(len(labels)), accumulate=True)
        dominant = votes.argmax(1)[labels]
        return own.gather(1, dominant[:, None]).squeeze(1).clamp(-1, 1).acos().rad2deg()

    def _to_every_center(self, embeddings: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines: Tensor = _Cosines.apply(F.normalize(embeddings.float()), self.centers)
            return cosines

    def _with_margin(self, cosines: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        own = cosines.gather(1, target)
        margin = self.margins if self.margins.ndim == 0 else self.margins[target]
        if self.kind == "cosface":
            return cosines.scatter(1, target, own - margin)
        moved = _further(own, margin)
        if self.kind == "curricular":
            cosines = self._harder(cosines, own, moved)
        return cosines.scatter(1, target, moved)

    def _harder(self, cosines: Tensor, own: Tensor, moved: Tensor) -> Tensor:
        """Negatives that are nearer than the handicapped positive, weighed by how far training is."""
        if self.training:
            mean = own.detach().mean()
            self.hardness.mul_(_MOMENTUM).add_(mean, alpha=1.0 - _MOMENTUM)
        return torch.where(cosines > moved, cosines * (self.hardness + cosines), cosines)


class _Cosines(torch.autograd.Function):
    """``x @ normalize(w).T`` for x of length one, without the matrix of normalised centres.

    The columns of the product are scaled instead, and with l_c = 1 / |w_c| and the gradient G,

        dx = (G l) w        dw_c = sum_b G_bc l_c x_b  -  w_c l_c^2 sum_b G_bc cos_bc
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, centers: Tensor) -> Tensor:
        inverse = torch.linalg.vector_norm(centers, dim=1).clamp_min_(1e-12).reciprocal_()
        cosines = (x @ centers.T).mul_(inverse)
        ctx.save_for_backward(x, centers, inverse, cosines)
        return cosines

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, centers, inverse, cosines = ctx.saved_tensors
        scaled = gradient * inverse
        for_x = scaled @ centers if ctx.needs_input_grad[0] else None
        for_centers = None
        if ctx.needs_input_grad[1]:
            along = torch.linalg.vecdot(scaled, cosines, dim=0).mul_(inverse)
            for_centers = (scaled.T @ x).addcmul_(centers, along.unsqueeze(1), value=-1.0)
        return for_x, for_centers


def adaptive_margins(
    counts: Sequence[int], low: float = 0.05, high: float = 0.5, power: float = 0.25
) -> list[float]:
    """Margins that grow as a class has fewer examples: a n^-power + b (Ha et al. 2020, 2010.05350).

    Args:
        counts: Training examples of each class; 0 counts as 1.
        low: The margin of the largest class.
        high: The margin of the smallest class.
        power: 1/4 in the paper.
    """
    raw = [max(count, 1) ** -power for count in counts]
    least, most = min(raw), max(raw)
    span = most - least
    return [low + (high - low) * ((value - least) / span if span else 0.0) for value in raw]


def _further(cosine: Tensor, margin: Tensor) -> Tensor:
    """cos(theta + m); past theta = pi - m, where it would rise again, cos theta - m sin m."""
    # Finite, with a finite gradient, also at cosines of 1 and -1.
    sine = (1.0 - cosine.square()).clamp_min(1e-7).sqrt()
    moved = cosine * margin.cos() - sine * margin.sin()
    return torch.where(cosine > -margin.cos(), moved, cosine - margin * margin.sin())


def _margins(margin: float | Sequence[float], num_classes: int, kind: str) -> Tensor:
    try:
        values = torch.tensor(margin).float()
    except (TypeError, ValueError):
        raise ValueError(
            f"margin is {margin!r}; expected a number, or one for each class"
        ) from None
    if values.ndim and len(values) != num_classes:
        raise ValueError(f"there are {len(values)} margins for {num_classes} classes")
    most = 1.0 if kind == "cosface" else math.pi / 2
    if not bool(((values >= 0) & (values <= most)).all()):
        raise ValueError(f"margin is {margin}; expected 0 to {most:.4g} with kind={kind}")
    return values


def _scale(scale: float | str, num_classes: int) -> float:
    if scale == "auto":
        return math.sqrt(2.0) * math.log(max(num_classes - 1, _FEWEST_FOR_AUTO))
    if isinstance(scale, str) or not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale!r}; expected a positive number or 'auto'")
    return float(scale)
