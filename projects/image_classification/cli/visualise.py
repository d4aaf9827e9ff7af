"""``ml-visualise``: TensorBoard, sheets of samples and of predictions, pictures of a search."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from common.utils.errors import ConfigError, exit_on_error
from common.utils.options import check_option
from projects.image_classification.cli.arguments import Parser, overrides_of

if TYPE_CHECKING:
    from projects.image_classification.core.sample_sheets import Sheet

EXAMPLES = (
    "ml-visualise --mode launch --run_dir runs/digits_fold_0",
    "ml-visualise --mode launch --run_dir runs --port 0       # all runs, on a free port",
    "ml-visualise --mode clean --run_dir runs/digits_fold_0 --dry_run",
    "ml-visualise --mode samples --config configs/digits_config.yaml --split val",
    "ml-visualise --mode samples --config configs/digits_config.yaml --augmented",
    "ml-visualise --mode predictions --checkpoint_path runs/digits_fold_0/weights/best.pt",
    "ml-visualise --mode predictions --checkpoint_path runs/r/weights/best.pt --which uncertain",
    "ml-visualise --mode search --study-name digits --plot-type contour --params lr batch_size",
)
SPLITS = ("train", "val", "test")
WHICH = ("mistakes", "confident", "uncertain", "random")
PLOTS = (
    *("optimization_history", "param_importances", "contour"),
    *("parallel_coordinate", "slice"),
)
# Which flags each mode takes.
MODES = {
    "launch": ("run_dir", "port"),
    "clean": ("run_dir", "yes", "dry_run"),
    "samples": ("config", "split", "count", "augmented", "fold", "seed", "output"),
    "predictions": ("checkpoint_path", "split", "count", "which", "data_dir", "output"),
    "search": ("study_name", "storage", "plot_type", "params", "output"),
}


def parser() -> Parser:
    """The command line of ``ml-visualise``."""
    parser = Parser("ml-visualise", __doc__ or "", EXAMPLES)
    parser.option("mode", "what to show", choices=tuple(MODES), required=True)
    parser.option("run_dir", "launch, clean: a run, or the folder of runs")
    parser.option("port", "launch: where to listen; 0: a free port (default: 6006)", type=int)
    parser.option("yes", "clean: do not ask", action="store_true", default=None)
    parser.option("dry_run", "clean: only tell", action="store_true", default=None)
    parser.option("config", "samples: configuration, as ml-init-config writes it")
    parser.option(
        "augmented", "samples: show what training sees", action="store_true", default=None
    )
    parser.key_options("fold", "seed")
    parser.option("checkpoint_path", "predictions: runs/r/weights/best.pt")
    parser.option("which", "predictions: which ones (default: mistakes)", choices=WHICH)
    parser.option("data_dir", "predictions: where the data set lies now, if it moved")
    parser.option("split", "samples (train), predictions (test): of which split", choices=SPLITS)
    parser.option("count", "samples, predictions: images (default: 25; augmented: 8)", type=int)
    parser.option("study_name", "search: the study")
    parser.option("storage", "search: its storage (default: sqlite:///optuna_studies.db)")
    parser.option("plot_type", "search: one picture (default: all)", choices=PLOTS)
    parser.option("params", "search: hyper-parameters to show, e.g. lr batch_size", nargs="+")
    parser.option("output", "picture of samples or predictions; folder of a search's pages")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``ml-visualise``."""
    with exit_on_error():
        arguments, words = parser().words(argv)
        mode = arguments.mode
        for name in (name for names in MODES.values() for name in names):
            if getattr(arguments, name) is not None and name not in MODES[mode]:
                modes = ", ".join(m for m, names in MODES.items() if name in names)
                raise ConfigError(f"--{name} belongs to --mode {modes}; the mode is {mode}")
        if words and mode != "samples":
            raise ConfigError(f"ml-visualise --mode {mode} takes no '{words[0]}'")
        if mode == "samples":
            _samples(arguments, overrides_of(arguments, words))
            return
        run: dict[str, Callable[[argparse.Namespace], None]] = {
            "launch": _launch,
            "clean": _clean,
            "predictions": _predictions,
            "search": _search,
        }
        run[mode](arguments)


def _launch(arguments: argparse.Namespace) -> None:
    from projects.image_classification.core.tensorboard_server import TensorBoardServer

    directory = Path(_needed(arguments.run_dir, "--run_dir runs/r, or --run_dir runs"))
    port = 6006 if arguments.port is None else arguments.port
    # SIGINT as well: a shell that starts a command in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with TensorBoardServer(directory, port) as server:
            sys.stdout.write(f"TensorBoard of {directory} at {server.url} (Ctrl-C ends it)\n")
            sys.stdout.flush()
            server.wait()
    except KeyboardInterrupt:
        sys.stdout.write("TensorBoard has ended\n")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _clean(arguments: argparse.Namespace) -> None:
    from projects.image_classification.core.tensorboard_server import clean_logs, logs_to_clean

    found = logs_to_clean(Path(_needed(arguments.run_dir, "--run_dir runs/r, or --run_dir runs")))
    full = [cleaning for cleaning in found if cleaning.files]
    for cleaning in found:
        for path in cleaning.files:
            sys.stdout.write(f"{path}  {path.stat().st_size:,} bytes\n")
        for path in cleaning.kept:
            sys.stdout.write(f"{path}  stays: it is no event file of TensorBoard\n")
    files, size = sum(len(c.files) for c in full), sum(c.size for c in full)
    total = (
        f"{files:,} file{'s' * (files != 1)} of {len(full):,} run{'s' * (len(full) != 1)}, "
        f"{size:,} bytes"
    )
    if arguments.dry_run or not files:
        sys.stdout.write(f"{total}; nothing was removed\n")
        return
    if not arguments.yes and not _agrees(f"remove {total}? [y/N] "):
        sys.stdout.write("nothing was removed\n")
        return
    for cleaning in full:
        clean_logs(cleaning)
    sys.stdout.write(f"removed {total}\n")


def _agrees(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("ml-visualise --mode clean asks on a terminal; give --yes or --dry_run")
    sys.stdout.write(question)
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _samples(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    from projects.image_classification.core.config_files import load_config
    from projects.image_classification.core.run_directories import dataset_name

    config, context = load_config(arguments.config, overrides)
    split = arguments.split or "train"
    count = _count(arguments, 8 if arguments.augmented else 25)
    kind = "augmented" if arguments.augmented else "samples"
    out = _picture(arguments, Path(f"{dataset_name(config)}_{split}_{kind}.png"))
    from common.utils.text import printable
    from common.visualization.tables import text_table
    from projects.image_classification.core.sample_sheets import sample_sheet

    sheet = sample_sheet(config, context, split, count, bool(arguments.augmented))
    if arguments.augmented and (
        config.augmentation.mixup_alpha or config.augmentation.cutmix_alpha
    ):
        sys.stdout.write("mixup and cutmix mix whole batches; they are not in this picture\n")
    rows = [(printable(name), f"{number:,}") for name, number in sheet.counts.items()]
    sys.stdout.write(f"{text_table(rows, ['class', 'images'])}\n")
    _draw(sheet, out)


def _predictions(arguments: argparse.Namespace) -> None:
    checkpoint = Path(
        _needed(arguments.checkpoint_path, "--checkpoint_path runs/r/weights/best.pt")
    )
    split, which = arguments.split or "test", arguments.which or "mistakes"
    count = _count(arguments, 25)
    plots = checkpoint.absolute().parent.parent / "plots"
    out = _picture(arguments, Path(os.path.relpath(plots / f"{split}_{which}.png")))
    from projects.image_classification.core.sample_sheets import prediction_sheet

    sheet = prediction_sheet(checkpoint, split, which, count, arguments.data_dir)
    sys.stdout.write(f"{sheet.title}\n")
    if sheet.images:
        _draw(sheet, out)
    else:
        sys.stdout.write("there is none of these, and so no picture\n")


def _search(arguments: argparse.Namespace) -> None:
    name = _needed(arguments.study_name, "--study-name NAME")
    from projects.image_classification.core.search.plots import plot_study

    paths = plot_study(
        name, arguments.storage, arguments.plot_type, arguments.params, arguments.output
    )
    sys.stdout.writelines(f"wrote {path}\n" for path in paths)


def _draw(sheet: "Sheet", out: Path) -> None:
    from common.visualization import plot_image_sheet

    plot_image_sheet(
        sheet.images,
        sheet.captions,
        out,
        sheet.title,
        columns=sheet.columns,
        colours=sheet.colours,
    )
    sys.stdout.write(f"wrote {out}\n")


def _picture(arguments: argparse.Namespace, usual: Path) -> Path:
    from common.visualization.style import check_picture_path

    out = usual if arguments.output is None else Path(arguments.output).expanduser()
    check_picture_path(out)
    return out


def _count(arguments: argparse.Namespace, usual: int) -> int:
    check_option("--count", arguments.count, 1, 1000)
    return usual if arguments.count is None else arguments.count


def _needed(value: str | None, example: str) -> str:
    if value is None:
        raise ConfigError(f"ml-visualise: {example.split()[0]} is missing, e.g. {example}")
    return value


if __name__ == "__main__":
    main()
