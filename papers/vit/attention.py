"""What a trained Vision Transformer looks at: attention rollout, and how alike its positions are.

Rollout is Abnar & Zuidema 2020 (arXiv 2005.00928), section 4, which Dosovitskiy et al. 2020
(arXiv 2010.11929) use in their figure 6; the similarity of positions is their figure 7, centre.

    python -m papers.vit.attention                       # the newest run
    python -m papers.vit.attention --run RUN --out pictures/
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from common.config import default_checkpoint, find_run, load_run_config
from common.data.labelled_images import load_labelled_images
from common.training import restore_task
from common.utils import setup_logger
from common.utils.errors import exit_on_error
from common.visualization.style import (
    check_picture_path,
    house_style,
    new_figure,
    save_figure,
)
from papers.vit.model import ClassificationTask
from papers.vit.train import Config

_COLUMNS = 8


def attention_rollout(maps: Sequence[Float[Tensor, "B H T T"]]) -> Float[Tensor, "B T T"]:
    """How much of each input token reaches each output token, through all layers.

    A layer passes on half of what its heads attend to on average and half of the token itself, the
    residual connection: A = 0.5 W_att + 0.5 I. The layers' matrices are multiplied (equation 1).

    Args:
        maps: The attention weights of each layer, the first layer first; rows sum to one.

    Returns:
        Row t says what token t of the last layer is made of; rows sum to one.
    """
    identity = torch.eye(maps[0].shape[-1], device=maps[0].device, dtype=maps[0].dtype)
    rollout = identity.expand(len(maps[0]), -1, -1)
    for weights in maps:
        mixed = weights.mean(dim=1) + identity
        rollout = mixed / mixed.sum(dim=-1, keepdim=True) @ rollout
    return rollout


@torch.inference_mode()
def class_token_maps(task: ClassificationTask, images: Tensor) -> Float[Tensor, "B h w"]:
    """What the class token is made of, patch by patch; the largest share of each image is 1.

    Args:
        task: In evaluation mode.
        images: uint8 ``(B, C, H, W)``.
    """
    maps: list[Tensor] = []
    task.model.features(task.normalized(images), maps)
    shares = attention_rollout(maps)[:, 0, 1:]
    side = task.model.image_size // task.config.patch_size
    shares = rearrange(shares, "b (h w) -> b h w", h=side)
    return shares / shares.amax(dim=(1, 2), keepdim=True)


def position_similarity(positions: Float[Tensor, "1 T D"]) -> Float[Tensor, "N N"]:
    """Cosine similarity of the position embeddings of the N patches, without the class token."""
    patches = F.normalize(positions[0, 1:], dim=-1)
    return patches @ patches.T


def draw_rollout(images: Tensor, maps: Tensor, labels: Sequence[str], out: Path) -> None:
    """Each image above itself with the patches dimmed that the class token is not made of.

    Args:
        images: uint8 ``(B, C, H, W)``.
        maps: ``(B, h, w)`` from 0 to 1.
        labels: One per image.
        out: The picture.
    """
    pixels = images.cpu().float() / 255.0
    light = F.interpolate(maps.cpu()[:, None], images.shape[-2:], mode="bilinear")
    rows = [rearrange(picture, "b c h w -> b h w c") for picture in (pixels, pixels * light)]
    count = len(images)
    with house_style():
        figure = new_figure(1.15 * count, 2.6)
        axes = figure.subplots(2, count, squeeze=False)
        for column in range(count):
            axes[0, column].set_title(labels[column], fontsize=9)
            for row in range(2):
                axes[row, column].imshow(rows[row][column].numpy(), cmap="gray", vmin=0, vmax=1)
                axes[row, column].axis("off")
        save_figure(figure, out)


def draw_positions(similarity: Float[Tensor, "N N"], out: Path) -> None:
    """A small map for each patch, at its place: how alike the positions of all patches are to its own.

    Args:
        similarity: Of ``position_similarity``.
        out: The picture.
    """
    side = round(len(similarity) ** 0.5)
    maps = rearrange(similarity.detach().cpu(), "n (h w) -> n h w", h=side)
    framed = F.pad(maps, (1, 0, 1, 0), value=float("nan"))
    grid = rearrange(framed, "(a b) h w -> (a h) (b w)", a=side)[1:, 1:]
    with house_style():
        figure = new_figure(5.0, 4.2)
        axis = figure.subplots()
        shown = axis.imshow(grid.numpy(), cmap="viridis", vmin=-1, vmax=1)
        axis.axis("off")
        figure.colorbar(shown, label="cosine similarity", shrink=0.8)
        save_figure(figure, out)


def main() -> None:
    """Draw both pictures of a run."""
    parser = argparse.ArgumentParser(
        prog="python -m papers.vit.attention",
        description="Draw what a trained Vision Transformer looks at.",
    )
    parser.add_argument("--run", help="run directory; the newest run by default")
    parser.add_argument("--checkpoint", help="final, best, last or a file")
    parser.add_argument("--out", type=Path, help="folder of the pictures; the run's plots/")
    arguments = parser.parse_args()
    setup_logger(level="WARNING")
    with exit_on_error():
        run = find_run(arguments.run, Path(__file__).parent)
        out = arguments.out or run / "plots"
        rollout, positions = out / "rollout.png", out / "positions.png"
        check_picture_path(rollout)
        config, context = load_run_config(Config, run)
        context.checkpoint = arguments.checkpoint or default_checkpoint(run)
        data = load_labelled_images(config.data, context, config.seed)
        task = restore_task(ClassificationTask(config.model), data.info, config, context)
        batch = next(iter(data.test.batches(epoch=0)))
        images, labels = batch["image"][:_COLUMNS], batch["label"][:_COLUMNS].tolist()
        names = data.info.class_names or tuple(map(str, range(data.info.num_classes or 0)))
        maps = class_token_maps(task, images)
        draw_rollout(images, maps, [names[label] for label in labels], rollout)
        draw_positions(position_similarity(task.model.positions), positions)
        sys.stdout.write(f"{rollout}\n{positions}\n")


if __name__ == "__main__":
    main()
