"""List the training images of a run that are far from their class's dominant centre.

What lies more than 75 degrees away is mostly mislabelled (sub-center ArcFace, ECCV 2020, section
3.3). The run was trained with ``loss.num_centers`` above 1.

    python -m papers.arcface.suspects                       # the newest run, into its plots/
    python -m papers.arcface.suspects --run RUN --out DIR   # suspects.csv and suspects.png
"""

import argparse
import csv
import io
import sys
from pathlib import Path

from torch import Tensor

from common.config import default_checkpoint, find_run, load_run_config
from common.data.info import DataSplits
from common.training import Trainer, restore_task
from common.utils import setup_logger
from common.utils.errors import InputError, exit_on_error
from common.utils.files import atomic_write_text, explained_write
from common.visualization import plot_image_sheet
from common.visualization.style import check_picture_path
from papers.arcface.model import ArcFaceTask
from papers.arcface.subcenters import DEGREES, dominant_angles, suspicion
from papers.arcface.train import Config, build_data

_SHOWN = 24


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
    parser = argparse.ArgumentParser(
        prog="python -m papers.arcface.suspects",
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
