"""Draw images from a trained VAE: samples of the prior, or the map of a two-dimensional latent space.

python -m papers.vae.sample --out grid.png
python -m papers.vae.sample --run RUN --out grid.png --count 144 --seed 1
python -m papers.vae.sample --run RUN --out map.png --manifold     # two latent dimensions, figure 4
"""

import argparse
import sys
from pathlib import Path

from common.config import default_checkpoint, find_run, load_run_config
from common.data.labelled_images import load_labelled_images
from common.training import restore_task
from common.utils import setup_logger
from common.utils.errors import exit_on_error
from common.utils.options import check_option, check_seed
from common.visualization import plot_image_grid
from common.visualization.style import check_picture_path
from papers.vae.latent_space import manifold, prior_samples
from papers.vae.model import VAETask
from papers.vae.train import Config


def main() -> None:
    """Read the command line, decode, write the picture."""
    parser = argparse.ArgumentParser(
        prog="python -m papers.vae.sample", description="Draw images from a trained VAE."
    )
    parser.add_argument("--run", help="run directory; the newest run by default")
    parser.add_argument("--checkpoint", help="final, best, last or a file")
    parser.add_argument("--out", type=Path, required=True, help="the picture, e.g. grid.png")
    parser.add_argument("--count", type=int, default=96, help="samples of the prior: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the samples: %(default)s")
    parser.add_argument("--manifold", action="store_true", help="figure 4 instead of samples")
    parser.add_argument(
        "--side", type=int, default=20, help="images along a side of figure 4: %(default)s"
    )
    arguments = parser.parse_args()
    setup_logger(level="WARNING")
    with exit_on_error():
        check_picture_path(arguments.out)
        check_option("--count", arguments.count, 1)
        check_option("--side", arguments.side, 1)
        check_seed(arguments.seed)
        run = find_run(arguments.run, Path(__file__).parent)
        config, context = load_run_config(Config, run)
        context.checkpoint = arguments.checkpoint or default_checkpoint(run)
        data = load_labelled_images(config.data, context, config.seed)
        task = restore_task(VAETask(config.model), data.info, config, context)
        if arguments.manifold:
            columns = arguments.side
            images = manifold(task, columns)
        else:
            columns = 12
            images = prior_samples(task, arguments.count, arguments.seed)
        plot_image_grid(images, arguments.out, columns=columns)
        sys.stdout.write(f"{arguments.out}\n")


if __name__ == "__main__":
    main()
