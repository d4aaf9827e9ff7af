"""Losses of metric learning, forward and backward, beside pytorch-metric-learning's.

Both get the same embeddings, labels and class centres; their values and the gradients of the
embeddings are compared before anything is timed. ArcFace is shown with its floor, the linear layer
and the cross-entropy that no such loss can do without.

    uv sync --group bench
    python -m benchmarks.metric_losses --json benchmarks/results/metric_losses.json
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import (
    Column,
    Measure,
    Result,
    command_line,
    installed,
    interleave,
    timed,
)
from common.losses import ArcFace, MultiSimilarityLoss, NTXentLoss, TripletMarginLoss
from common.utils.errors import FaultError

Loss = Callable[[Tensor, Tensor], Tensor]  # of embeddings (B, D) and labels (B,)

_PEER, _OURS, _FLOOR = "pytorch-metric-learning", "ours", "linear + cross-entropy"
_SCALE, _TEMPERATURE, _MARGIN, _EACH = 64.0, 0.1, 0.2, 4
_SECONDS = 0.05  # a quick step is repeated until a clock can see it


@dataclass(frozen=True)
class Setting:
    """A loss and the size it is measured at.

    Attributes:
        loss: Which.
        batch_size: Embeddings; of NT-Xent two views of half as many images.
        dim: Their width.
        classes: Of ArcFace; the other losses have four embeddings of every class.
    """

    loss: str
    batch_size: int
    dim: int
    classes: int = 0

    @property
    def title(self) -> str:
        """A column's heading."""
        classes = f", C {self.classes:,}" if self.classes else ""
        return f"{self.loss}, B {self.batch_size}, D {self.dim}{classes}"

    def batch(self) -> tuple[Tensor, Tensor]:
        """Random embeddings and their labels."""
        generator = torch.Generator().manual_seed(0)
        embeddings = torch.randn(self.batch_size, self.dim, generator=generator)
        if self.classes:
            labels = torch.randint(self.classes, (self.batch_size,), generator=generator)
        elif self.loss == "NT-Xent":
            labels = torch.arange(self.batch_size // 2).repeat(2)
        else:
            labels = torch.arange(self.batch_size) // _EACH
        return embeddings, labels


SETTINGS = {
    "arcface_1k": Setting("ArcFace", 128, 256, 1_000),
    "arcface_50k": Setting("ArcFace", 128, 256, 50_000),
    "nt_xent_128": Setting("NT-Xent", 128, 128),
    "nt_xent_512": Setting("NT-Xent", 512, 128),
    "triplet_128": Setting("Triplet, batch-hard", 128, 256),
    "triplet_512": Setting("Triplet, batch-hard", 512, 256),
    "multi_similarity_128": Setting("Multi-Similarity", 128, 256),
    "multi_similarity_512": Setting("Multi-Similarity", 512, 256),
}
_QUICK = {
    "arcface_1k": Setting("ArcFace", 16, 8, 10),
    "nt_xent_128": Setting("NT-Xent", 16, 8),
    "triplet_128": Setting("Triplet, batch-hard", 16, 8),
    "multi_similarity_128": Setting("Multi-Similarity", 16, 8),
}
_COLUMNS = [Column(key, f"{setting.title}, steps/s", 1, key) for key, setting in SETTINGS.items()]
_NOTES = [
    "Forward and backward passes per CPU-second, in brackets times pytorch-metric-learning. *B*: "
    "embeddings; NT-Xent: two views of half as many images; triplets and Multi-Similarity: "
    f"{_EACH} of every class, mining included. Values and gradients agree, or nothing is measured."
]


def our_loss(setting: Setting) -> tuple[Loss, nn.Module]:
    """Ours as one number, and the module that holds its centres."""
    if setting.loss == "ArcFace":
        head = ArcFace(setting.dim, setting.classes, scale=_SCALE)

        def mean(embeddings: Tensor, labels: Tensor) -> Tensor:
            output = head(embeddings, labels)
            return output.loss / output.weight

        return mean, head
    if setting.loss == "NT-Xent":
        views = NTXentLoss(_TEMPERATURE)
        return lambda embeddings, labels: views(*embeddings.chunk(2)), views
    if setting.loss == "Multi-Similarity":
        pairs = MultiSimilarityLoss()
        return pairs, pairs
    triplets = TripletMarginLoss(_MARGIN)
    return lambda embeddings, labels: triplets(embeddings, labels).loss, triplets


def their_loss(setting: Setting) -> tuple[Loss, nn.Module]:
    """pytorch-metric-learning's, with the same settings."""
    from pytorch_metric_learning import losses, miners
    from pytorch_metric_learning.reducers import MeanReducer

    if setting.loss == "ArcFace":
        degrees = torch.tensor(0.5).rad2deg().item()
        head = losses.ArcFaceLoss(setting.classes, setting.dim, margin=degrees, scale=_SCALE)
        return head, head
    if setting.loss == "NT-Xent":
        views = losses.NTXentLoss(_TEMPERATURE)
        return views, views
    if setting.loss == "Multi-Similarity":
        miner, loss = miners.MultiSimilarityMiner(0.1), losses.MultiSimilarityLoss(2, 50, 0.5)
    else:  # the mean over all triplets, as ours, and not over the active ones
        miner = miners.BatchHardMiner()
        loss = losses.TripletMarginLoss(_MARGIN, reducer=MeanReducer())
    return lambda embeddings, labels: loss(embeddings, labels, miner(embeddings, labels)), loss


def floor(setting: Setting) -> tuple[Loss, nn.Module]:
    """The classifier that an angular loss has to do at the least."""
    linear = nn.Linear(setting.dim, setting.classes, bias=False)
    return lambda embeddings, labels: F.cross_entropy(linear(embeddings), labels), linear


def gradients(
    loss: Loss, module: nn.Module, embeddings: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """One forward and backward pass: the value, and the gradient of the embeddings."""
    given = embeddings.detach().requires_grad_()
    module.zero_grad(set_to_none=True)
    value = loss(given, labels)
    value.backward()
    assert given.grad is not None
    return value.detach(), given.grad


def check_values(
    setting: Setting, ours: tuple[Loss, nn.Module], theirs: tuple[Loss, nn.Module]
) -> None:
    """Give both the same centres, and compare one step.

    Raises:
        FaultError: if value or gradient differ.
    """
    if setting.loss == "ArcFace":
        with torch.no_grad():
            ours[1].get_parameter("centers").copy_(theirs[1].get_parameter("W").T)
    batch = setting.batch()
    (value, slope), (expected, steepness) = gradients(*ours, *batch), gradients(*theirs, *batch)
    for what, one, other in (("values", value, expected), ("gradients", slope, steepness)):
        difference = (one - other).abs().max().item() / max(other.abs().max().item(), 1e-12)
        if not difference < 1e-4:
            raise FaultError(f"{setting.title}: the {what} differ by {difference:.1e} of them")


def metric_losses(repeats: int, quick: bool = False) -> Result:
    """Check that both compute the same, then time them in turns.

    Args:
        repeats: Interleaved rounds.
        quick: Tiny batches, and ours and the floor only.
    """
    torch.manual_seed(0)
    settings = _QUICK if quick else SETTINGS
    rows: dict[str, dict[str, tuple[Loss, nn.Module]]] = {}
    if not quick and installed({_PEER: "pytorch_metric_learning"}):
        rows[_PEER] = {key: their_loss(setting) for key, setting in settings.items()}
    rows[_OURS] = {key: our_loss(setting) for key, setting in settings.items()}
    rows[_FLOOR] = {key: floor(setting) for key, setting in settings.items() if setting.classes}
    for key, theirs in rows.get(_PEER, {}).items():
        check_values(settings[key], rows[_OURS][key], theirs)
    measures: dict[str, Measure] = {
        row: partial(_measure, settings, losses) for row, losses in rows.items()
    }
    baselines = dict.fromkeys(rows, _PEER) if _PEER in rows else {}
    columns = [column for column in _COLUMNS if column.key in settings]
    return Result("metric_losses", columns, interleave(measures, repeats), baselines, _NOTES)


def _measure(
    settings: Mapping[str, Setting], losses: Mapping[str, tuple[Loss, nn.Module]]
) -> dict[str, float]:
    """Steps per CPU-second of each loss of a row."""
    rates = {}
    for key, loss in losses.items():
        step = partial(gradients, *loss, *settings[key].batch())
        once = timed(step)  # it also warms up what the loss before has left cold
        count = max(1, round(_SECONDS / max(once.wall, 1e-6)))
        rates[key] = count / timed(partial(_repeat, step, count)).cpu
    return rates


def _repeat(step: Callable[[], object], count: int) -> None:
    for _ in range(count):
        step()


if __name__ == "__main__":
    command_line(metric_losses, repeats=9)
