#!/usr/bin/env python
"""One self-contained HTML page over chosen runs; it opens from a file and asks for nothing.

tools/report.py RUN RUN --out report.html
tools/report.py RUN --out report.html --title "ResNet-20, three seeds"
"""

import argparse
import sys
from pathlib import Path

from common.config.files import show_path
from common.records.page import report_page
from common.records.run_record import find_record
from common.utils.errors import exit_on_error
from common.utils.files import atomic_write_text


def main() -> None:
    """Parse the command line and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's directory or name")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page")
    parser.add_argument("--title", help="of the page (default: the experiments' names)")
    arguments = parser.parse_args()
    with exit_on_error():
        records = [find_record(run) for run in arguments.runs]
        title = arguments.title or ", ".join(dict.fromkeys(record.experiment for record in records))
        atomic_write_text(arguments.out, report_page(records, title))
        sys.stdout.write(f"{show_path(arguments.out)}\n")


if __name__ == "__main__":
    main()
