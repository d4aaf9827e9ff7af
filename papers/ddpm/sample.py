"""Draw images from a trained diffusion model (algorithm 2 of Ho et al. 2020, 2006.11239).

python -m papers.ddpm.sample --out grid.png
python -m papers.ddpm.sample --run RUN --out grid.png --steps 50 --seed 1
python -m papers.ddpm.sample --out grid.png --progress       # how noise turns into images
"""

import argparse
import sys
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from common.config import default_checkpoint, find_run, load_run_config
from common.data.labelled_images import load_labelled_images
from common.training import Trainer, restore_task
from common.utils import setup_logger
from common.utils.errors import exit_on_error
from common.utils.options import check_option, check_seed
from common.visualization import plot_image_grid
from common.visualization.style import check_picture_path
from papers.ddpm.model import DiffusionTask, to_pixels
from papers.ddpm.train import Config

_SNAPSHOTS = 10


def main() -> None:
    """Read the command line, draw, write the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m papers.ddpm.sample",
        description="Draw images from a trained diffusion model.",
    )
    parser.add_argument("--run", help="run directory; the newest run by default")
    parser.add_argument("--checkpoint", help="final, best, last or a file")
    parser.add_argument("--out", type=Path, required=True, help="the picture, e.g. grid.png")
    parser.add_argument("--steps", type=int, help="steps of a shorter chain; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of the noise: %(default)s")
    parser.add_argument("--count", type=int, default=64, help="images: %(default)s")
    parser.add_argument(
        "--progress", action="store_true", help="a row for each image, from noise to image"
    )
    arguments = parser.parse_args()
    setup_logger(level="WARNING")
    with exit_on_error():
        check_picture_path(arguments.out)
        check_option("--count", arguments.count, 1)
        check_option("--steps", arguments.steps, 1)
        check_seed(arguments.seed)
        run = find_run(arguments.run, Path(__file__).parent)
        config, context = load_run_config(Config, run)
        context.checkpoint = arguments.checkpoint or default_checkpoint(run)
        data = load_labelled_images(config.data, context, config.seed)
        task = DiffusionTask(config.model, config.diffusion)
        task = restore_task(task, data.info, config, context)
        task.to(Trainer(config.trainer).device)
        count, columns = arguments.count, 8
        if arguments.progress:
            images, columns = snapshots(task, count, arguments.seed, arguments.steps), _SNAPSHOTS
        else:
            images = task.sample(count, arguments.seed, steps=arguments.steps)
        plot_image_grid(images, arguments.out, columns=columns)
        sys.stdout.write(f"{arguments.out}\n")


def snapshots(task: DiffusionTask, count: int, seed: int, steps: int | None) -> Tensor:
    """Each image at ten moments of its chain, the last one finished: uint8 ``(10 N, C, H, W)``."""
    diffusion = task.diffusion if steps is None else task.diffusion.respaced(steps)
    moments = torch.linspace(0, diffusion.num_steps, _SNAPSHOTS).round().long().tolist()
    generator = torch.Generator().manual_seed(seed)
    chain = list(diffusion.trajectory(task.model, (count, *task.image_shape), generator))
    kept = torch.stack([chain[moment] for moment in moments])
    return to_pixels(rearrange(kept, "k n c h w -> (n k) c h w")).cpu()


if __name__ == "__main__":
    main()
