#!/usr/bin/env python
"""Make a row of a paper's results.json from finished runs of one configuration.

tools/record_result.py assets/outputs/resnet/RUN --name "ResNet-20 on CIFAR-10"
tools/record_result.py RUN_OF_SEED_0 RUN_OF_SEED_1 RUN_OF_SEED_2     # mean and spread over seeds
tools/record_result.py RUN --scale "reduced: 2 of 200 epochs" --note "stopped early"

The same configuration, seeds and commit again replace the row. Afterwards: tools/make_index.py
"""

import argparse
import sys

from common.config.files import show_path
from common.records.recording import make_row
from common.records.results import RESULTS_FILE, add_row
from common.records.run_record import find_record
from common.records.tables import measurement
from common.utils.errors import exit_on_error


def main() -> None:
    """Parse the command line, record, and show the row's numbers."""
    arguments = _parse()
    with exit_on_error():
        paper, row = make_row(
            [find_record(run).directory for run in arguments.runs],
            name=arguments.name,
            scale=arguments.scale,
            note=arguments.note,
            allow_dirty=arguments.allow_dirty,
        )
        earlier = add_row(paper.folder, row)
        what = f"added '{row.name}' ({row.scale})"
        if earlier is not None:
            what = f"replaced '{earlier.name}' ({earlier.scale}) with '{row.name}' ({row.scale})"
        metrics = ", ".join(f"{key} {measurement(value)}" for key, value in row.metrics.items())
        sys.stdout.write(f"{show_path(paper.folder / RESULTS_FILE)}: {what}\n")
        sys.stdout.write(f"  {metrics}\n  {row.command}\n")
        sys.stdout.write("next: python tools/make_index.py\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's directory or name")
    parser.add_argument("--name", help="what was trained on what (default: configuration, data)")
    parser.add_argument("--scale", help="full, or 'reduced: ...' (default: full where it is clear)")
    parser.add_argument("--note", default="", help="what else a reader must know")
    parser.add_argument(
        "--allow-dirty", action="store_true", help="record code that is not exactly a commit"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
