"""Draw a run as in figure 1 of Power et al. 2022: accuracy over steps on a logarithmic axis.

python -m papers.grokking.plot                                # the newest run, into its plots/
python -m papers.grokking.plot --run RUN --out grokking.png
"""

import argparse
import sys
from pathlib import Path

from common.config import find_run
from common.utils.errors import exit_on_error
from common.visualization.curves import read_history
from common.visualization.style import (
    check_picture_path,
    house_style,
    new_figure,
    save_figure,
)
from papers.grokking.delay import grokking_steps


def main() -> None:
    """Find the run and draw it."""
    parser = argparse.ArgumentParser(
        prog="python -m papers.grokking.plot", description="Draw when a run understood."
    )
    parser.add_argument("--run", help="run directory; the newest run by default")
    parser.add_argument("--out", type=Path, help="the picture; RUN/plots/grokking.png by default")
    arguments = parser.parse_args()
    with exit_on_error():
        check_picture_path(arguments.out)
        run = find_run(arguments.run, Path(__file__).parent)
        out = arguments.out or run / "plots" / "grokking.png"
        plot_grokking(run, out)
        sys.stdout.write(f"{out}\n")


def plot_grokking(run: Path, out: Path) -> None:
    """Accuracy on equations that were trained on and on the others, and when each passed 99%.

    Args:
        run: The run's directory.
        out: The picture.
    """
    records, known = read_history(run), grokking_steps(run)
    with house_style():
        figure = new_figure(6.4, 3.6)
        axis = figure.subplots()
        for colour, split in (("C1", "train"), ("C0", "validation")):
            key = f"{split}/accuracy"
            points = [(r["step"], 100 * r[key]) for r in records if key in r]
            label = {"train": "training", "validation": "validation"}[split]
            step = known.get(f"steps/{split}_99")
            if step is not None:
                label += f", 99% at step {step:,.0f}"
                axis.axvline(step, color=colour, linewidth=0.8, linestyle=":")
            axis.plot(*zip(*points, strict=True), color=colour, label=label)
        axis.set_xscale("log")
        axis.set_xlabel("updates")
        axis.set_ylabel("accuracy, %")
        axis.set_ylim(-2, 104)
        axis.legend(loc="upper left", bbox_to_anchor=(0.0, 0.96))
        save_figure(figure, out)


if __name__ == "__main__":
    main()
