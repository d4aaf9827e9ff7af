"""``ml-split``: from a folder of photos to lists for one test set and K folds.

The raw folder has a folder of images for each class, and is never changed. Written beside it:
splits/test.txt, fold_K_train.txt, fold_K_val.txt, classes.json, split.json, and
report.txt, report.json, report.png: look at the report before you train.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from common.utils.errors import ConfigError, InputError, exit_on_error
from projects.image_classification.cli.arguments import Parser
from projects.image_classification.core.folder.image_folder import check_raw_folder
from projects.image_classification.core.folder.split_options import SplitOptions

EXAMPLES = (
    "ml-split --raw_data data/pets/raw --folds 5",
    'ml-split --raw_data data/scans/raw --folds 5 --group-by "patient_(\\d+)"',
    "ml-split --raw_data data/scans/raw --folds 5 --group-by patients.csv     # columns path,group",
    "ml-split --raw_data data/pets/raw --folds 1 --val-share 0.2 --test-share 0.15 --seed 7",
    "ml-split --dataset zalando-datasets/fashion_mnist --folds 3              # data/fashion_mnist",
    "ml-split --dataset embedded/digits --folds 3 --no-keep-test",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and split."""
    with exit_on_error():
        arguments, words = parser().words(argv)
        if words:
            raise ConfigError(f"ml-split takes no '{words[0]}'; see ml-split --help")
        _split(arguments)


def _split(arguments: argparse.Namespace) -> None:
    raw = arguments.raw_data
    if raw is None and arguments.dataset is None:
        raise InputError(
            "give --raw_data data/NAME/raw, a folder with a folder of images for each class, or "
            "--dataset NAME for a data set of the store"
        )
    given = vars(arguments)
    options = SplitOptions(**{field.name: given[field.name] for field in fields(SplitOptions)})
    options.check()
    if arguments.dataset is None:
        check_raw_folder(raw)
    # PyTorch is imported by these: --help and a mistyped path need not wait for it.
    from common.utils.logging import setup_logger
    from projects.image_classification.core.folder.data_report import report_text
    from projects.image_classification.core.folder.splitting import split_dataset

    setup_logger()
    if arguments.dataset is not None:
        from projects.image_classification.core.folder.stored_folder import (
            default_folder,
            unpack_dataset,
        )

        folder = default_folder(arguments.dataset) if raw is None else raw.parent
        if raw is not None and raw.name != "raw":
            raise InputError(
                f"--raw_data is {raw}, expected a folder named raw, such as data/NAME/raw, to "
                "unpack a data set in"
            )
        raw = unpack_dataset(arguments.dataset, folder, arguments.config)
    split = split_dataset(raw, options, progress=True)
    sys.stdout.write(f"{report_text(split.report, short=True)}\n\n")
    sys.stdout.write(f"written: {split.folder / 'splits'}; look at report.png\n")
    sys.stdout.flush()


def parser() -> Parser:
    """The command line of ``ml-split``."""
    parser = Parser("ml-split", __doc__ or "", EXAMPLES)
    parser.option(
        "raw_data",
        "folder with a folder of images for each class, such as data/NAME/raw",
        type=Path,
        metavar="FOLDER",
    )
    parser.option(
        "dataset",
        "a data set of the store, or embedded/digits: unpacked to image files once",
        metavar="NAME",
    )
    parser.option("config", "configuration of the stored data set", metavar="NAME")
    parser.option(
        "on_bad",
        "images that do not decode: leave them out and list them, or stop (%(default)s)",
        choices=("skip", "fail"),
    )
    parser.option(
        "workers",
        "processes that decode; 0 is this one (%(default)s)",
        type=int,
        metavar="N",
    )
    parser.option("folds", "1 is one pair of train and val (%(default)s)", type=int, metavar="K")
    parser.option("test_share", "of all images (%(default)s)", type=float, metavar="SHARE")
    parser.option(
        "val_share",
        "of what is not for the test, with --folds 1 (%(default)s)",
        type=float,
        metavar="SHARE",
    )
    parser.option("seed", "another seed is another split (%(default)s)", type=int)
    parser.option(
        "no_keep_test",
        "deal all images anew, also those of own_test.txt beside the raw folder (--dataset "
        "writes it), which are the test set otherwise",
        action="store_false",
        dest="keep_test",
    )
    parser.option(
        "group_by",
        "a regular expression whose first group, found in the path below the raw folder, names "
        "the group; or a CSV file with the columns path,group: no group crosses a split",
        metavar="REGEX|CSV",
    )
    parser.option(
        "no_near_duplicates",
        "only equal files stay on one side, not images that look alike",
        action="store_false",
        dest="near_duplicates",
    )
    parser.option(
        "hash_distance",
        "bits of 63 in which two that look alike may differ, 0 to 16 (%(default)s)",
        type=int,
        metavar="BITS",
    )
    parser.set_defaults(**asdict(SplitOptions()))
    return parser


if __name__ == "__main__":
    main()
