"""ml-split: from a folder of photos to lists for one test set and K folds.

  ml-split --raw_data data/pets/raw --folds 5
  ml-split --raw_data data/scans/raw --folds 5 --group-by "patient_(\\d+)"
  ml-split --raw_data data/scans/raw --folds 5 --group-by patients.csv     # columns path,group
  ml-split --raw_data data/pets/raw --folds 1 --val-share 0.2 --test-share 0.15 --seed 7
  ml-split --dataset zalando-datasets/fashion_mnist --folds 3              # data/fashion_mnist
  ml-split --dataset embedded/digits --folds 3 --no-keep-test

The raw folder has a folder of images for each class, and is never changed. Written beside it:
splits/test.txt, fold_K_train.txt, fold_K_val.txt, classes.json, split.json, and
report.txt, report.json, report.png: look at the report before you train.
"""

import argparse
import sys
from dataclasses import asdict, fields
from pathlib import Path

from common.utils.errors import InputError, exit_on_error
from projects.image_classification.core.folder.image_folder import check_raw_folder
from projects.image_classification.core.folder.split_options import SplitOptions


def main() -> None:
    """Parse the command line and split."""
    arguments = _parser().parse_args()
    with exit_on_error():
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ml-split", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        *("--raw_data", "--raw-data"),
        type=Path,
        metavar="FOLDER",
        help="folder with a folder of images for each class, such as data/NAME/raw",
    )
    data.add_argument(
        "--dataset",
        metavar="NAME",
        help="a data set of the store, or embedded/digits: unpacked to image files once",
    )
    data.add_argument("--config", metavar="NAME", help="configuration of the stored data set")
    data.add_argument(
        "--on-bad",
        choices=("skip", "fail"),
        help="images that do not decode: leave them out and list them, or stop (%(default)s)",
    )
    data.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode; 0 is this one (%(default)s)",
    )
    sets = parser.add_argument_group("sets")
    sets.add_argument(
        "--folds", type=int, metavar="K", help="1 is one pair of train and val (%(default)s)"
    )
    sets.add_argument(
        "--test-share", type=float, metavar="SHARE", help="of all images (%(default)s)"
    )
    sets.add_argument(
        "--val-share",
        type=float,
        metavar="SHARE",
        help="of what is not for the test, with --folds 1 (%(default)s)",
    )
    sets.add_argument("--seed", type=int, help="another seed is another split (%(default)s)")
    sets.add_argument(
        "--keep-test",
        action=argparse.BooleanOptionalAction,
        help="own_test.txt beside the raw folder, as --dataset writes it, is the test set (yes)",
    )
    same = parser.add_argument_group("what stays on one side")
    same.add_argument(
        "--group-by",
        metavar="REGEX|CSV",
        help="a regular expression whose first group, found in the path below the raw folder, "
        "names the group; or a CSV file with the columns path,group",
    )
    same.add_argument(
        "--near-duplicates",
        action=argparse.BooleanOptionalAction,
        help="images that look alike (yes); equal files always stay together",
    )
    same.add_argument(
        "--hash-distance",
        type=int,
        metavar="BITS",
        help="of 63, in which two that look alike may differ, 0 to 16 (%(default)s)",
    )
    parser.set_defaults(**asdict(SplitOptions()))
    return parser


if __name__ == "__main__":
    main()
