"""Write the results of the suites into ``docs/performance.md``, the only way a number gets there.

A page has places ``<!-- benchmark:NAME -->`` ... ``<!-- /benchmark -->``; what is between them is
replaced by the table of ``benchmarks/results/NAME.json``, or by a line that says how to make it.

    python -m benchmarks.report            # write
    python -m benchmarks.report --check    # exit 1 if the page is not what the results say
"""

import argparse
import re
import sys
from pathlib import Path

from benchmarks.harness import Result
from common.utils.files import atomic_write_text
from common.utils.paths import get_project_root

_PLACE = re.compile(r"<!-- benchmark:(\w+) -->\n.*?<!-- /benchmark -->", re.DOTALL)


def filled(page: str, results: Path) -> str:
    """The text of a page with every place filled from the JSON files in ``results``."""

    def fill(place: re.Match[str]) -> str:
        name = place.group(1)
        path = results / f"{name}.json"
        suite = name.removesuffix("_large")
        command = f"python -m benchmarks.{suite}{' --large' if name != suite else ''}"
        text = f"Not measured yet: `{command} --json benchmarks/results/{name}.json`."
        if path.exists():
            text = Result.read(path).markdown()
        return f"<!-- benchmark:{name} -->\n\n{text}\n\n<!-- /benchmark -->"

    return _PLACE.sub(fill, page)


def main() -> int:
    """Returns 1 if ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    root = get_project_root()
    page = root / "docs" / "performance.md"
    old = page.read_text()
    new = filled(old, root / "benchmarks" / "results")
    if options.check and new != old:
        print(f"{page} differs from the results; run python -m benchmarks.report", file=sys.stderr)
        return 1
    if new != old:
        atomic_write_text(page, new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
