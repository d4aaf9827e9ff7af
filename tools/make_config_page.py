#!/usr/bin/env python
"""Write the tables of keys that are made of a schema, or see whether they are up to date.

tools/make_config_page.py            # docs/image_classification/configuration.md
tools/make_config_page.py --check    # exit code 1 and one line if the page is out of date
"""

import argparse
import sys

from common.config.template import key_tables
from common.utils.errors import ConfigError, exit_on_error
from common.utils.files import atomic_write_text
from common.utils.paths import get_project_root
from projects.image_classification.core.config import Config

PAGE = get_project_root() / "docs" / "image_classification" / "configuration.md"
BEGIN, END = "<!-- keys -->\n", "<!-- /keys -->\n"


def current_page() -> str:
    """The page with the tables as the schema has them now.

    Raises:
        ConfigError: if the page has no place for them.
    """
    text = PAGE.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ConfigError(
            f"{PAGE} has no place for the keys: one {BEGIN.strip()} and {END.strip()}"
        )
    tables = key_tables(Config).replace("\n## ", "\n### ")
    return text[: text.index(BEGIN)] + f"{BEGIN}\n{tables}\n" + text[text.index(END) :]


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it would")
    arguments = parser.parse_args()
    with exit_on_error():
        name = PAGE.relative_to(get_project_root())
        text = current_page()
        if not arguments.check:
            atomic_write_text(PAGE, text)
            sys.stdout.write(f"wrote {name}\n")
        elif PAGE.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{name} is out of date: run python tools/make_config_page.py\n")
            raise SystemExit(1)


if __name__ == "__main__":
    main()
