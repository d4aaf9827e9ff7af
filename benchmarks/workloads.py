"""What the training suites train: an MLP and a tiny ViT over scikit-learn's handwritten digits.

Every loop gets the same weights, the same data and the same optimizer (fused AdamW), and calls the
same ``Classifier``: what differs between two loops is what stands around it.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from common.data import TensorLoader

LEARNING_RATE = 1e-3
BATCH_SIZE = 64
VALIDATION_BATCH_SIZE = 256
LOG_EVERY = 50
_TRAINING_EXAMPLES = 1437

Tick = Callable[[], None]


class Classifier(nn.Module):
    """Logits of a network, and a tick at every training forward pass.

    Args:
        network: Maps ``(B, ...)`` to ``(B, 10)``.
        on_forward: Called before each forward pass in training mode.
    """

    def __init__(self, network: nn.Module, on_forward: Tick) -> None:
        super().__init__()
        self.network = network
        self._on_forward = on_forward

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._on_forward()
        return self.network(x)


@dataclass(frozen=True)
class Workload:
    """A network, data, and how long to train.

    Attributes:
        name: For tables.
        build: Makes the network.
        train: Features ``(N, ...)`` and labels ``(N,)``.
        validation: The same for validation; ``None``: there is none.
        epochs: Passes over the training data.
        directory: Where a realistic set-up writes; ``None``: a plain loop.
    """

    name: str
    build: Callable[[], nn.Module]
    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor] | None
    epochs: int
    directory: Path | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; the last one may be smaller."""
        return -(-len(self.train[0]) // BATCH_SIZE)

    def model(self, on_forward: Tick) -> Classifier:
        """The classifier with its initial weights, the same every time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Classifier(self.build(), on_forward)

    def first_batch(self) -> "Workload":
        """One step on the first batch, without validation."""
        x, y = self.train
        one = (x[:BATCH_SIZE], y[:BATCH_SIZE])
        return replace(self, train=one, validation=None, epochs=1)

    def data_loader(self) -> DataLoader:
        """The training data the usual way: a data set of samples, a sampler, a collate."""
        return DataLoader(TensorDataset(*self.train), BATCH_SIZE, shuffle=True)

    def validation_data_loader(self) -> DataLoader | None:
        """The validation data the usual way."""
        if self.validation is None:
            return None
        return DataLoader(TensorDataset(*self.validation), VALIDATION_BATCH_SIZE)

    def tensor_loader(self) -> TensorLoader:
        """The training data by one indexed read per tensor and batch."""
        x, y = self.train
        return TensorLoader({"x": x, "y": y}, BATCH_SIZE, shuffle=True)

    def validation_tensor_loader(self) -> TensorLoader | None:
        """The validation data by one indexed read per tensor and batch."""
        if self.validation is None:
            return None
        x, y = self.validation
        return TensorLoader({"x": x, "y": y}, VALIDATION_BATCH_SIZE)


Loop = Callable[[Workload, Tick], None]


def run_loop(loop: Loop, workload: Workload, on_forward: Tick, realistic: bool) -> None:
    """Train from start to end, from the same seed; a realistic set-up writes to a temporary place."""
    torch.manual_seed(0)
    if not realistic:
        loop(workload, on_forward)
        return
    with tempfile.TemporaryDirectory(prefix="benchmark-") as directory:
        loop(replace(workload, directory=Path(directory)), on_forward)


def mlp_on_digits(epochs: int, copies: int = 1, validation: bool = True) -> Workload:
    """64-128-10 with a ReLU over 8 x 8 digits; 9,610 parameters.

    Args:
        epochs: Passes over the training data.
        copies: How often each of the 1,437 training examples is in the data.
        validation: Hold out the other 360 for validation.
    """
    return _workload("MLP", _mlp, epochs, copies, validation)


def vit_on_digits(epochs: int, copies: int = 1, validation: bool = True) -> Workload:
    """timm's ViT with 2 blocks, width 32, 2 heads, patches of 2 x 2; 26,538 parameters.

    Args:
        epochs: Passes over the training data.
        copies: How often each of the 1,437 training examples is in the data.
        validation: Hold out the other 360 for validation.
    """
    return _workload("ViT", _vit, epochs, copies, validation)


def adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of every loop: fused AdamW without decay."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)


def _workload(
    name: str, build: Callable[[], nn.Module], epochs: int, copies: int, validation: bool
) -> Workload:
    x, y = _digits()
    if name == "ViT":
        x = x.unflatten(1, (1, 8, 8))
    split = _TRAINING_EXAMPLES
    train = (torch.cat([x[:split]] * copies), torch.cat([y[:split]] * copies))
    return Workload(name, build, train, (x[split:], y[split:]) if validation else None, epochs)


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(digits.data).float()[order] / 16.0
    return x, torch.from_numpy(digits.target)[order]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def _vit() -> nn.Module:
    from timm.models import VisionTransformer

    return VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=10,
        embed_dim=32,
        depth=2,
        num_heads=2,
        mlp_ratio=4,
    )
