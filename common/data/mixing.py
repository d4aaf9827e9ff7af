"""Mixtures of the images of a batch, with their labels: mixup and cutmix.

    mixup    x' = l x + (1 - l) x_other                       (Zhang et al. 2017, 1710.09412)
    cutmix   a rectangle of x_other, of share 1 - l, in x      (Yun et al. 2019, 1905.04899)
    both     y' = l y + (1 - l) y_other,   l ~ Beta(alpha, alpha)

One l and one permutation for a batch, as in both papers. The draws come from PyTorch's global
generator, which the loaders seed in ``collate`` and ``transform``, so that a resumed run mixes as
the undisturbed one. With several ranks each mixes its own share of the batch.
"""

import torch
from torch import Tensor

from common.data.augmentation_config import AugmentationConfig
from common.data.loaders import Batch
from common.utils.errors import ConfigError


class Mixing:
    """Gives a batch soft labels ``(B, K)``, and mixes its images with ``mix_probability``.

    Args:
        config: ``mixup_alpha``, ``cutmix_alpha`` and ``mix_probability``.
        num_classes: K.

    Raises:
        ConfigError: if both alphas are 0, so that there is nothing to mix; or with fewer than two
            classes.
    """

    def __init__(self, config: AugmentationConfig, num_classes: int) -> None:
        if not (config.mixup_alpha or config.cutmix_alpha):
            raise ConfigError(
                "augmentation.mixup_alpha and cutmix_alpha are 0; set one, e.g. to 0.2 or 1.0"
            )
        if num_classes < 2:
            raise ConfigError(f"mixing needs at least two classes; there are {num_classes}")
        self.mixup_alpha, self.cutmix_alpha = config.mixup_alpha, config.cutmix_alpha
        self.probability, self.num_classes = config.mix_probability, num_classes

    def __call__(self, batch: Batch) -> Batch:
        """The batch with ``label`` as float32 ``(B, K)``; images keep their dtype.

        Args:
            batch: ``image`` ``(B, C, H, W)``, uint8 or floating point, and ``label``, ``(B,)``
                integers or ``(B, K)``.
        """
        images = batch["image"]
        labels = self._soft(batch["label"])
        # All draws are made in any case: which batches are mixed moves no other draw.
        chance, choice = torch.rand(2).tolist()
        other = torch.randperm(len(images))
        cuts = self.cutmix_alpha > 0 and (self.mixup_alpha == 0 or choice < 0.5)
        share = _beta(self.cutmix_alpha if cuts else self.mixup_alpha)
        centre = torch.rand(2).tolist()
        if chance >= self.probability:
            return {**batch, "label": labels}
        if cuts:
            images, share = cutmix(images, images[other], share, (centre[0], centre[1]))
        else:
            images = mixup(images, images[other], share)
        return {**batch, "image": images, "label": torch.lerp(labels[other], labels, share)}

    def _soft(self, labels: Tensor) -> Tensor:
        if labels.is_floating_point():
            return labels.float()
        return torch.nn.functional.one_hot(labels, self.num_classes).float()


def mixup(images: Tensor, others: Tensor, share: float) -> Tensor:
    """``share * images + (1 - share) * others``; integers are rounded to the nearest."""
    mixed = torch.lerp(others.float(), images.float(), share)
    return mixed.to(images.dtype) if images.is_floating_point() else mixed.round_().to(images.dtype)


def cutmix(
    images: Tensor, others: Tensor, share: float, centre: tuple[float, float]
) -> tuple[Tensor, float]:
    """``images`` with a rectangle of ``others`` (1905.04899, appendix A, equation 1).

    The rectangle has the image's proportions and the share ``1 - share`` of its area; what lies
    outside of the image is cut off.

    Args:
        images: ``(B, C, H, W)``; they are not changed.
        others: What is cut in.
        share: Of the area that stays, in [0, 1].
        centre: Of the rectangle, down and across, as shares of height and width.

    Returns:
        The images, and the share of pixels that did stay.
    """
    height, width = images.shape[-2:]
    side = (1.0 - share) ** 0.5
    top, bottom = _span(centre[0] * height, side * height, height)
    left, right = _span(centre[1] * width, side * width, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return mixed, 1.0 - (bottom - top) * (right - left) / (height * width)


def _span(centre: float, length: float, limit: int) -> tuple[int, int]:
    first, last = round(centre - length / 2), round(centre + length / 2)
    return max(first, 0), max(min(last, limit), max(first, 0))


def _beta(alpha: float) -> float:
    """Drawn from Beta(alpha, alpha), as the share of one of two Gamma variables."""
    concentration = torch.full((2,), alpha, dtype=torch.float64)
    first, second = torch._standard_gamma(concentration).tolist()
    total = first + second
    return first / total if total else 0.5  # both underflow for a tiny alpha
