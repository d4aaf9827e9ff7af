#!/usr/bin/env python
"""Write the tables and lists that are made of records, or see whether they are up to date.

tools/make_index.py            # README tables, papers/README.md, the root README, docs/papers.md
tools/make_index.py --check    # exit code 1 and one line for each document that is out of date
tools/make_index.py --stale    # how far the code has moved since each row was recorded
"""

import argparse
import sys

from common.config.files import show_path
from common.records.index import out_of_date, write_documents
from common.records.staleness import report_lines
from common.utils.errors import exit_on_error


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="write nothing; fail if it would")
    what.add_argument("--stale", action="store_true", help="what changed since rows were recorded")
    arguments = parser.parse_args()
    with exit_on_error():
        if arguments.stale:
            sys.stdout.writelines(f"{line}\n" for line in report_lines())
        elif arguments.check:
            _check()
        else:
            sys.stdout.writelines(f"wrote {show_path(path)}\n" for path in write_documents())


def _check() -> None:
    paths = out_of_date()
    for path in paths:
        sys.stderr.write(f"{show_path(path)} is out of date: run python tools/make_index.py\n")
    if paths:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
