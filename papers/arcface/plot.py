"""Draw what a run learnt: angles between test images, and the neighbours that some of them find.

``angles.png`` has the angles of pairs of one class and of different classes, before and after
training; the paper shows such distributions in section 3.2. Where the two overlap, a threshold
takes one for the other. ``neighbors.png`` has a row for each of eight queries.

    python -m papers.arcface.plot                          # the newest run, into its plots/
    python -m papers.arcface.plot --run RUN --out pictures/
"""

import argparse
import sys
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.config import default_checkpoint, find_run, load_run_config
from common.metrics import nearest_neighbors
from common.training import Trainer, restore_task
from common.utils import setup_logger
from common.utils.errors import exit_on_error
from common.visualization import NeighborRow, plot_neighbors
from common.visualization.style import (
    check_picture_path,
    house_style,
    new_figure,
    save_figure,
)
from papers.arcface.baselines import untrained
from papers.arcface.model import ArcFaceTask
from papers.arcface.train import Config, build_data

_BINS = 60
_QUERIES, _NEIGHBORS = 8, 7


def pair_angles(
    embeddings: Float[Tensor, "N D"], labels: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " P"], Float[Tensor, " Q"]]:
    """Degrees between every two rows: pairs of one label, and pairs of two.

    Args:
        embeddings: Of length one.
        labels: Of each row.
    """
    first, second = torch.triu_indices(len(labels), len(labels), offset=1)
    cosines = (embeddings @ embeddings.T)[first, second]
    degrees = cosines.clamp(-1.0, 1.0).acos().rad2deg()
    same = labels[first] == labels[second]
    return degrees[same], degrees[~same]


def plot_pair_angles(panels: list[tuple[str, Tensor, Tensor]], out: Path) -> None:
    """A histogram of both kinds of pairs for each panel.

    Args:
        panels: Title, and the two tensors of ``pair_angles``.
        out: The picture.
    """
    with house_style():
        figure = new_figure(4.2 * len(panels), 3.0)
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, (title, same, different) in zip(axes, panels, strict=True):
            for values, colour, label in (
                (same, "C0", "same class"),
                (different, "C1", "different classes"),
            ):
                axis.hist(
                    values.numpy(),
                    bins=_BINS,
                    range=(0.0, 180.0),
                    density=True,
                    color=colour,
                    alpha=0.6,
                    label=f"{label}, mean {values.mean():.0f}",
                )
            axis.set_axisbelow(True)
            axis.set_title(title)
            axis.set_xlabel("angle between two images, degrees")
            axis.set_yticks([])
            axis.legend()
        axes[0].set_ylabel("share of pairs")
        save_figure(figure, out)


def neighbor_rows(
    images: Tensor, embeddings: Float[Tensor, "N D"], labels: Int[Tensor, " N"]
) -> list[NeighborRow]:
    """Eight queries, each the first image of its class, and what they find among the others.

    Args:
        images: uint8 ``(N, C, H, W)``.
        embeddings: Of each image.
        labels: Of each image.
    """
    found = nearest_neighbors(embeddings, k=min(_NEIGHBORS, len(labels) - 1))
    queries = [int((labels == label).nonzero()[0]) for label in labels.unique()[:_QUERIES]]
    return [
        NeighborRow(
            images[query],
            list(images[found.ids[query]]),
            found.scores[query].tolist(),
            (labels[found.ids[query]] == labels[query]).tolist(),
        )
        for query in queries
    ]


def main() -> None:
    """Find the run, embed its test images, draw."""
    parser = argparse.ArgumentParser(
        prog="python -m papers.arcface.plot",
        description="Draw the angles between test images, and the neighbours of some of them.",
    )
    parser.add_argument("--run", help="run directory; the newest run by default")
    parser.add_argument("--checkpoint", help="final, best, last or a file")
    parser.add_argument("--out", type=Path, help="folder of the pictures; the run's plots/")
    arguments = parser.parse_args()
    setup_logger(level="WARNING")
    with exit_on_error():
        run = find_run(arguments.run, Path(__file__).parent)
        out = arguments.out or run / "plots"
        angles, neighbors = out / "angles.png", out / "neighbors.png"
        check_picture_path(angles)
        config, context = load_run_config(Config, run)
        context.checkpoint = arguments.checkpoint or default_checkpoint(run)
        data, _ = build_data(config, context)
        before = untrained(lambda: ArcFaceTask(config.model, config.loss), data, config, context)
        after = restore_task(ArcFaceTask(config.model, config.loss), data.info, config, context)
        trainer, labels = Trainer(config.trainer), data.test.tensors["label"]
        panels = []
        for title, task in (("untrained", before), ("trained", after)):
            embeddings = torch.cat(list(trainer.predict(task, data.test))).cpu()
            panels.append((title, *pair_angles(embeddings, labels)))
        plot_pair_angles(panels, angles)
        rows = neighbor_rows(data.test.tensors["image"], embeddings, labels)
        plot_neighbors(rows, neighbors)
        sys.stdout.write(f"{angles}\n{neighbors}\n")


if __name__ == "__main__":
    main()
