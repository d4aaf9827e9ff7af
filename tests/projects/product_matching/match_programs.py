"""What the tests of ``match.py`` run in processes of their own."""

import os
from pathlib import Path
from typing import Any

import faiss  # noqa: F401 (before the fork)

from common.testing import faults
from projects.product_matching.cli.match import main
from projects.product_matching.core.index import commands, image_index  # noqa: F401


def match(directory: str, words: list[str], fault: dict[str, Any]) -> None:
    """``match.py`` in a directory, with parts of eight images, in trouble."""
    os.chdir(directory)
    image_index._PART = 8
    arguments = fault | {"below": Path(fault["below"])}
    with getattr(faults, arguments.pop("kind"))(**arguments):
        main(words)
