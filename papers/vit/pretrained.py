"""Start from pre-trained weights: a new head, and positions for another resolution (section 3.2).

Dosovitskiy et al. 2020 (arXiv 2010.11929) pre-train on large data and fine-tune on small. Their
published weights exist as timm's, in repositories such as timm/vit_base_patch16_224.orig_in21k:

    python -m papers.vit.train --config configs/cifar10_b16_finetune.yaml
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from common.data import download_model
from common.models import VisionTransformer
from common.models.vit_timm import load_timm_weights, timm_weights
from common.training.pretrained import read_weights_file


def read_pretrained(repository: str) -> Mapping[str, Tensor]:
    """The weights of a repository of timm's models, under timm's names.

    Args:
        repository: Its name on the Hub; it is fetched once, and read from the store afterwards.

    Raises:
        CheckpointError: if the file is damaged.
        DataError: if there is no such repository.
        DownloadError: if it is not in the store and cannot be fetched.
    """
    weights, _ = read_weights_file(Path(download_model(repository, "model.safetensors")))
    return weights


def load_pretrained(model: VisionTransformer, pretrained: Mapping[str, Tensor]) -> None:
    """Give ``model`` the weights of one of timm's models, all but the head's.

    The head keeps its zeros: all classes are equally probable again. Positions are interpolated
    if the resolution differs.

    Args:
        model: Ours, with the sizes of timm's.
        pretrained: See ``read_pretrained``.

    Raises:
        CheckpointError: if the weights do not fit.
    """
    weights = dict(pretrained)
    own = timm_weights(model)
    weights |= {name: value for name, value in own.items() if name.startswith("head.")}
    if "pos_embed" in weights:
        weights["pos_embed"] = resized_positions(weights["pos_embed"], own["pos_embed"].shape[1])
    load_timm_weights(model, weights)


def resized_positions(positions: Float[Tensor, "1 T D"], tokens: int) -> Float[Tensor, "1 _ D"]:
    """Position embeddings for another number of patches, from where they are in the image.

    Args:
        positions: Of the class token and a square grid of patches.
        tokens: How many there are to be, the class token included.
    """
    if positions.shape[1] == tokens:
        return positions
    before, after = (round((count - 1) ** 0.5) for count in (positions.shape[1], tokens))
    grid = rearrange(positions[:, 1:], "one (h w) d -> one d h w", h=before)
    grid = F.interpolate(grid.float(), (after, after), mode="bicubic", antialias=True)
    patches = rearrange(grid, "one d h w -> one (h w) d")
    return torch.cat([positions[:, :1], patches.to(positions.dtype)], dim=1)
