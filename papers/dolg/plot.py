"""Draw where the local branch of a DOLG looks: its attention over test images.

python -m papers.dolg.plot                              # the newest run, into its plots/
python -m papers.dolg.plot --run RUN --out attention.png --count 12
"""

import argparse
import sys
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from common.config import default_checkpoint, find_run, load_run_config
from common.models import DOLG
from common.training import restore_task
from common.utils import setup_logger
from common.utils.errors import InputError, exit_on_error
from common.utils.options import check_option
from common.visualization import plot_image_attention
from common.visualization.style import check_picture_path
from papers.dolg.model import DolgTask
from papers.dolg.train import Config, build_data, build_task


@torch.inference_mode()
def attention_maps(task: DolgTask, images: Tensor) -> Float[Tensor, "B h w"]:
    """How much each position of the local stage counts, above 0.

    Args:
        task: With both branches, in evaluation mode.
        images: uint8 ``(B, C, H, W)``.
    """
    return cast(DOLG, task.model).attention(task.normalized(images))


def main() -> None:
    """Find the run, draw its attention on the first test images."""
    parser = argparse.ArgumentParser(
        prog="python -m papers.dolg.plot",
        description="Draw the local branch's attention over test images.",
    )
    parser.add_argument("--run", help="run directory; the newest run by default")
    parser.add_argument("--checkpoint", help="final, best, last or a file")
    parser.add_argument("--out", type=Path, help="the picture; RUN/plots/attention.png by default")
    parser.add_argument("--count", type=int, default=12, help="images: %(default)s")
    arguments = parser.parse_args()
    setup_logger(level="WARNING")
    with exit_on_error():
        check_picture_path(arguments.out)
        check_option("--count", arguments.count, 1)
        run = find_run(arguments.run, Path(__file__).parent)
        out = arguments.out or run / "plots" / "attention.png"
        config, context = load_run_config(Config, run)
        context.checkpoint = arguments.checkpoint or default_checkpoint(run)
        if config.model.branches != "both":
            raise InputError(
                f"{run.name} has model.branches={config.model.branches}; "
                "attention is drawn of both, which is DOLG"
            )
        data = build_data(config, context)
        task = restore_task(build_task(config, starts=False), data.info, config, context)
        images = data.test.tensors["image"][: arguments.count]
        # The names of the test split's classes are not kept, and its numbers are no names.
        captions = [(f"test image {row}",) for row in range(1, len(images) + 1)]
        maps = attention_maps(task, images)
        plot_image_attention(list(images), list(maps), captions, out)
        sys.stdout.write(f"{out}\n")


if __name__ == "__main__":
    main()
