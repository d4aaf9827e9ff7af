"""``ml-inference``: what a trained classifier says of its test set, or of any images."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.utils.errors import ConfigError, exit_on_error
from projects.image_classification.cli.arguments import Parser

EXAMPLES = (
    "ml-inference --checkpoint_path runs/digits_fold_0/weights/best.pt            # its test set",
    "ml-inference --checkpoint_path runs/digits_fold_0/weights/best.pt --data_dir /mnt/digits",
    "ml-inference --checkpoint_path runs/pets_fold_0 --images photos/ --output photos.csv",
    'ml-inference --checkpoint_path runs/pets_fold_0 --images "photos/**/*.jpg" --top_k 3',
    "ml-inference --checkpoint_path runs/pets_fold_0 --images sorted/ --labelled --tta flip",
)


def parser() -> Parser:
    """The command line of ``ml-inference``."""
    parser = Parser("ml-inference", __doc__ or "", EXAMPLES)
    parser.option("checkpoint_path", "weights/best.pt of a run, or the run's directory")
    parser.option("images", "folders, files or patterns; the run's test set without it", nargs="+")
    parser.option(
        "output",
        "with --images a CSV file, else a directory; default: inference_TIME/ in the run",
    )
    parser.option(
        "top_k",
        "columns for the K likeliest classes in place of one for every class; top-K accuracy",
        type=int,
    )
    parser.option("batch_size", "images at a time; default: the run's", type=int)
    parser.option("num_workers", "processes that read ahead", type=int, default=0)
    parser.option("device", "auto, cpu, cuda or cuda:N", default="auto")
    parser.option(
        "on_bad",
        "an image that cannot be read: skip (listed and counted; the default with --images), or "
        "fail (nothing is written)",
        choices=("skip", "fail"),
    )
    parser.option("index_file", "another list of images of the data set")
    parser.option("data_dir", "the data set's folder, if it was moved")
    parser.option("tta", "flip: the mean with the mirrored image", choices=("flip",))
    parser.option(
        "labelled",
        "the folders below --images DIR are named as the classes: also report the accuracy",
        action="store_true",
    )
    parser.option(
        "plots",
        "draw the report of a test set; default: yes",
        action=argparse.BooleanOptionalAction,
        default=True,
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``ml-inference``."""
    with exit_on_error():
        arguments, words = parser().words(argv)
        _check(arguments, words)
        from common.utils import setup_logger
        from projects.image_classification.core.inference.reports import (
            InferenceOptions,
            infer_images,
            infer_split,
        )

        setup_logger()
        options = InferenceOptions(
            checkpoint=Path(arguments.checkpoint_path),
            images=tuple(arguments.images or ()),
            output=_path(arguments.output),
            top_k=arguments.top_k,
            batch_size=arguments.batch_size,
            num_workers=arguments.num_workers,
            device=arguments.device,
            on_bad=arguments.on_bad,
            index_file=_path(arguments.index_file),
            data_dir=_path(arguments.data_dir),
            flips=arguments.tta == "flip",
            labelled=arguments.labelled,
            draws=arguments.plots,
        )
        infer = infer_split if arguments.images is None else infer_images
        infer(options)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text).expanduser()


def _check(arguments: argparse.Namespace, words: Sequence[str]) -> None:
    if words:
        raise ConfigError(
            f"ml-inference takes no key=value words; got {words[0]}: a checkpoint keeps its own "
            "configuration"
        )
    if arguments.checkpoint_path is None:
        raise ConfigError(
            "ml-inference: --checkpoint_path is missing; give runs/NAME/weights/best.pt"
        )
    for name, least in (("top_k", 1), ("batch_size", 1), ("num_workers", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ConfigError(f"ml-inference: --{name} is {value}, expected {least} or more")
    of_images, of_split = ("labelled",), ("index_file", "data_dir")
    has_images = arguments.images is not None
    for name in of_split if has_images else of_images:
        if getattr(arguments, name):
            which = "belongs to the test set" if has_images else "needs --images DIR"
            raise ConfigError(f"ml-inference: --{name} {which}")


if __name__ == "__main__":
    main()
