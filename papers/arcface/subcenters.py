"""Which training images sub-center ArcFace holds for mislabelled (ECCV 2020, section 3.3).

With several centres a class, wrong images gather at other centres than the one to which most of the
class belongs; what lies more than 75 degrees from that one is worth a look.

    python -m papers.arcface.subcenters                       # the newest run, into its plots/
    python -m papers.arcface.subcenters --run RUN --out DIR   # suspects.csv and suspects.png
"""

import argparse
import copy
import csv
import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.config import default_checkpoint, find_run, load_run_config
from common.data import TensorLoader
from common.data.info import DataSplits
from common.losses import AngularMarginHead
from common.training import EmbeddingTask, Trainer, restore_task
from common.utils import setup_logger
from common.utils.errors import InputError, exit_on_error
from common.utils.files import atomic_write_text, explained_write
from common.utils.seeding import mix_seed
from common.visualization import plot_image_sheet
from common.visualization.style import check_picture_path

DEGREES = 75.0
"""The paper's: what is further from its dominant centre is dropped."""

_BATCH = 500
_SHOWN = 24


def with_wrong_labels(
    data: DataSplits, share: float, seed: int
) -> tuple[DataSplits, Bool[Tensor, " N"]]:
    """The data with a share of training images given another class, and which these are.

    Args:
        data: In memory.
        share: Of the training images.
        seed: Of which they are, and which class they are given; each other one is as probable.
    """
    labels = data.train.tensors["label"]
    generator = np.random.default_rng(mix_seed(seed, 2))
    chosen = generator.permutation(len(labels))[: round(share * len(labels))]
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[torch.from_numpy(chosen)] = True
    if not len(chosen):
        return data, wrong
    classes = int(data.info.num_classes or 0)
    further = torch.from_numpy(generator.integers(1, classes, size=len(chosen)))
    changed = labels.clone()
    changed[torch.from_numpy(chosen)] = (labels[torch.from_numpy(chosen)] + further) % classes
    train = copy.copy(data.train)
    train.tensors = {**data.train.tensors, "label": changed}
    return replace(data, train=train), wrong


def dominant_angles(task: EmbeddingTask, trainer: Trainer, data: DataSplits) -> Float[Tensor, " N"]:
    """Degrees of every training image, as it is stored, from its class's dominant centre.

    Args:
        task: Trained, with a loss of class centres.
        trainer: Embeds.
        data: In memory.
    """
    tensors = data.train.tensors
    embeddings = torch.cat(list(trainer.predict(task, TensorLoader(tensors, _BATCH))))
    labels = tensors["label"].to(embeddings.device)
    return cast(AngularMarginHead, task.loss).dominant_angles(embeddings, labels).cpu()


def suspicion(angles: Float[Tensor, " N"], wrong: Bool[Tensor, " N"]) -> dict[str, float]:
    """The share of images beyond 75 degrees, and how well that fits what is known to be wrong.

    Args:
        angles: Of ``dominant_angles``.
        wrong: Labels that were made wrong; if none was, only the share is given.

    Returns:
        ``suspects/share``; ``suspects/precision``, the share of suspects that are wrong, and
        ``suspects/recall``, the share of wrong ones that are suspects.
    """
    suspects = angles > DEGREES
    found = {"suspects/share": suspects.double().mean().item()}
    if wrong.any():
        hits = (suspects & wrong).sum().item()
        found["suspects/precision"] = hits / max(int(suspects.sum()), 1)
        found["suspects/recall"] = hits / int(wrong.sum())
    return found


def write_suspects(angles: Tensor, data: DataSplits, out: Path) -> int:
    """Write ``suspects.csv``, the furthest first, and a picture of the first of them.

    Args:
        angles: Of ``dominant_angles``.
        data: Whose training images they are.
        out: A folder.

    Returns:
        How many there are.
    """
    order = angles.argsort(descending=True)
    order = order[angles[order] > DEGREES]
    tensors, names = data.train.tensors, data.info.class_names
    rows = [
        (index, names[int(tensors["label"][index])], f"{angles[index]:.1f}")
        for index in order.tolist()
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("image", "label", "degrees"), *rows])
    with explained_write(out):
        out.mkdir(parents=True, exist_ok=True)
        atomic_write_text(out / "suspects.csv", text.getvalue())
    shown = rows[:_SHOWN]
    if shown:
        images = [tensors["image"][index] for index, _, _ in shown]
        captions = [(name, f"{degrees} degrees") for _, name, degrees in shown]
        plot_image_sheet(images, captions, out / "suspects.png")
    return len(rows)


def main() -> None:
    """Read the command line, measure, write."""
    # train.py measures with this file's functions.
    from papers.arcface.model import ArcFaceTask
    from papers.arcface.train import Config, build_data

    parser = argparse.ArgumentParser(
        prog="python -m papers.arcface.subcenters",
        description="List training images that are far from their class's dominant centre.",
    )
    parser.add_argument("--run", help="run directory; the newest run by default")
    parser.add_argument("--checkpoint", help="final, best, last or a file")
    parser.add_argument("--out", type=Path, help="folder of list and picture; the run's plots/")
    arguments = parser.parse_args()
    setup_logger(level="WARNING")
    with exit_on_error():
        run = find_run(arguments.run, Path(__file__).parent)
        out = arguments.out or run / "plots"
        check_picture_path(out / "suspects.png")
        config, context = load_run_config(Config, run)
        context.checkpoint = arguments.checkpoint or default_checkpoint(run)
        if config.loss.num_centers < 2:
            raise InputError(
                f"{run.name} has one centre a class; train with loss.num_centers=3 to have others"
            )
        data, wrong = build_data(config, context)
        task = restore_task(ArcFaceTask(config.model, config.loss), data.info, config, context)
        angles = dominant_angles(task, Trainer(config.trainer), data)
        count = write_suspects(angles, data, out)
        sys.stdout.write(f"{count} of {len(angles)} training images beyond {DEGREES:.0f} degrees\n")
        for name, value in suspicion(angles, wrong).items():
            sys.stdout.write(f"{name} {value:.4f}\n")
        sys.stdout.write(f"{out / 'suspects.csv'}\n")


if __name__ == "__main__":
    main()
