#!/usr/bin/env python
"""Download a model from the Hugging Face Hub into the store, list the store, or verify it.

tools/download_hf_model.py --repo-id bert-base-uncased
tools/download_hf_model.py --repo-id gpt2 --filename pytorch_model.bin
tools/download_hf_model.py --repo-id gpt2 --include "*.json" "*.safetensors"
tools/download_hf_model.py --list
tools/download_hf_model.py --verify [--repo-id gpt2]
"""

import argparse
import sys

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from common.data.card import list_store, verify_store
from common.data.hf_utils import download_model
from common.utils.errors import exit_on_error
from common.utils.logging import setup_logger


def main() -> None:
    """Parse the command line and do what it says."""
    arguments = _parse()
    setup_logger()
    with exit_on_error():
        if arguments.list:
            _print_store()
        elif arguments.verify:
            for line in verify_store("models", arguments.repo_id):
                sys.stdout.write(f"{line}\n")
        else:
            path = download_model(
                arguments.repo_id,
                arguments.filename,
                arguments.revision,
                arguments.include,
                arguments.exclude,
                arguments.dest,
            )
            sys.stdout.write(f"{path}\n")


def _print_store() -> None:
    table = Table(*("name", "repository", "revision", "files", "size", "licence"))
    for folder, card in list_store("models"):
        files = f"{len(card.stored_files)} of {len(card.available)}"
        shown = (card.repository, card.revision[:10], files, decimal(card.size), card.license)
        table.add_row(folder.name, *shown)
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table if table.row_count else "the store holds no models")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repo-id", help="a short name such as gpt2, or namespace/name")
    parser.add_argument("--filename", help="one file (default: the whole repository)")
    parser.add_argument("--revision", help="a branch, tag or commit (default: main)")
    parser.add_argument("--include", nargs="+", metavar="PATTERN", help="only files like these")
    parser.add_argument("--exclude", nargs="+", metavar="PATTERN", help="no files like these")
    parser.add_argument("--dest", help="keep it in this folder instead of assets/models/<repo-id>")
    parser.add_argument("--list", action="store_true", help="show what is in the store")
    parser.add_argument("--verify", action="store_true", help="compare stored files with the cards")
    arguments = parser.parse_args()
    if not (arguments.repo_id or arguments.list or arguments.verify):
        parser.error("give --repo-id NAME, --list or --verify")
    return arguments


if __name__ == "__main__":
    main()
