"""What an exported graph computes: images to logits and probabilities, nothing left to get wrong.

Normalisation and the softmax at the temperature are part of it. Of several networks, the folds of
a cross-validation, the probabilities are averaged.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.utils.errors import ConfigError
from projects.image_classification.core.classifier import Classifier

INPUTS = ("pixels", "normalized")
OUTPUTS = ("logits", "probabilities")


class Member(nn.Module):
    """One network with the normalisation it was trained with.

    Args:
        network: Normalised images ``(B, C, H, W)`` to logits ``(B, K)``.
        mean: Of each channel, with values from 0 to 1.
        std: Likewise; a channel without any is only centred.
        temperature: The logits are divided by it before the softmax.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature
        spread = torch.tensor(list(std), dtype=torch.float32).view(-1, 1, 1)
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.where(spread > 0, spread, 1.0))

    def normalized(self, pixels: Tensor) -> Tensor:
        """``(pixels / 255 - mean) / std``, as ``common.models.Normalize`` has it to the last bit."""
        return (pixels.float() / 255.0 - self.mean) / self.std


class OnnxNetwork(nn.Module):
    """The graph of one network, or of an ensemble.

    Args:
        members: Of an ensemble more than one.
        takes: ``pixels``: uint8 ``(B, C, H, W)``; ``normalized``: float32 of the same shape.

    Raises:
        ConfigError: if the members of an ensemble cannot share the input.
    """

    def __init__(self, members: Sequence[Member], takes: str = "pixels") -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.takes = takes
        first = members[0]
        same = all(
            torch.equal(first.mean, each.mean) and torch.equal(first.std, each.std)
            for each in members
        )
        if takes == "normalized" and not same:
            raise ConfigError(
                "the networks of the ensemble normalise differently, each by its own training "
                "images; export it with --input pixels"
            )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and probabilities, ``(B, K)`` each.

        The probabilities of an ensemble are the mean of its members', and its logits their
        logarithm.
        """
        every: list[Tensor] = []
        for member in self.members:
            assert isinstance(member, Member)
            logits = member.network(member.normalized(images) if self.takes == "pixels" else images)
            every.append(logits / member.temperature)
        if len(every) == 1:
            return logits, every[0].softmax(1)
        # In logarithms: of a class that all but rule out, nothing underflows.
        summed = torch.stack([each.log_softmax(1) for each in every]).logsumexp(0)
        mean = summed - math.log(len(every))
        return mean, mean.exp()

    def feed(self, pixels: Tensor) -> Tensor:
        """What the graph takes, made of uint8 images."""
        first = self.members[0]
        assert isinstance(first, Member)
        return pixels if self.takes == "pixels" else first.normalized(pixels)

    @property
    def num_bytes(self) -> int:
        """Size of parameters and buffers."""
        return sum(t.nbytes for t in (*self.parameters(), *self.buffers()))


def onnx_network(
    classifiers: Sequence[Classifier], takes: str = "pixels", *, calibrated: bool = True
) -> OnnxNetwork:
    """The graph of loaded classifiers.

    Args:
        classifiers: On the CPU; more than one make an ensemble.
        takes: See ``OnnxNetwork``.
        calibrated: Whether probabilities are those of the checkpoint's temperature.

    Raises:
        ConfigError: if the classes or the recipes of an ensemble differ.
    """
    first = classifiers[0]
    for each in classifiers[1:]:
        _check_same(first, each)
    members = [
        Member(
            each.network,
            each.preprocessing.config.mean or (),
            each.preprocessing.config.std or (),
            each.temperature if calibrated else 1.0,
        )
        for each in classifiers
    ]
    return OnnxNetwork(members, takes).eval()


def _check_same(first: Classifier, other: Classifier) -> None:
    if first.class_names != other.class_names:
        raise ConfigError(
            f"an ensemble needs the same classes in the same order; {first.path} has "
            f"{len(first.class_names)}, {other.path} has {len(other.class_names)}; the first "
            f"difference: {_first_difference(first.class_names, other.class_names)}"
        )
    ours, theirs = shared_recipe(first), shared_recipe(other)
    differ = [f"{key} ({ours[key]}, {theirs[key]})" for key in ours if ours[key] != theirs[key]]
    if differ:
        raise ConfigError(
            f"an ensemble needs one recipe from a file to pixels; {first.path} and {other.path} "
            f"differ in preprocessing.{', '.join(differ)}"
        )


def shared_recipe(classifier: Classifier) -> dict[str, object]:
    """The recipe up to the uint8 pixels: mean and deviation are inside the graph."""
    described = classifier.preprocessing.describe()
    return {key: value for key, value in described.items() if key not in ("mean", "std")}


def _first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    for ours_name, theirs_name in zip(ours, theirs, strict=False):
        if ours_name != theirs_name:
            return f"'{ours_name}' and '{theirs_name}'"
    longer = ours if len(ours) > len(theirs) else theirs
    return f"only one has '{longer[min(len(ours), len(theirs))]}'"
