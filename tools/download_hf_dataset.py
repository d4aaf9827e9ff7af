#!/usr/bin/env python
"""Download a data set from the Hugging Face Hub into the store, list the store, or verify it.

tools/download_hf_dataset.py --name squad
tools/download_hf_dataset.py --name wmt14 --config de-en --split train
tools/download_hf_dataset.py --name squad --link papers/attention_is_all_you_need
tools/download_hf_dataset.py --list
tools/download_hf_dataset.py --verify [--name squad]
"""

import argparse
import sys

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from common.data.card import Card, list_store, verify_store
from common.data.hf_utils import fetch_dataset, link_dataset
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
            for line in verify_store("datasets", arguments.name):
                sys.stdout.write(f"{line}\n")
        else:
            _download(arguments)


def _download(arguments: argparse.Namespace) -> None:
    folder = fetch_dataset(
        arguments.name, arguments.config, arguments.split, arguments.revision, arguments.dest
    )
    card = Card.read(folder)
    assert card is not None
    sys.stdout.write(f"{folder}\n  {_rows(card)}\n")
    if arguments.link is not None:
        link = link_dataset(arguments.name, arguments.link, arguments.config)
        sys.stdout.write(f"{link} -> {link.readlink()}\n")


def _print_store() -> None:
    table = Table(*("name", "repository", "revision", "rows", "size", "licence"))
    for folder, card in list_store("datasets"):
        shown = (card.repository, card.revision[:10], _rows(card), decimal(card.size), card.license)
        table.add_row(folder.name, *shown)
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table if table.row_count else "the store holds no data sets")


def _rows(card: Card) -> str:
    stored = [f"{split} {rows:,}" for split, rows in card.splits.items()]
    missing = [split for split in card.available if split not in card.splits]
    return ", ".join(stored) + (f" (not stored: {', '.join(missing)})" if missing else "")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", help="a short name such as squad, or namespace/name")
    parser.add_argument("--config", help="the configuration (default: the repository's own)")
    parser.add_argument("--split", help="one split (default: all)")
    parser.add_argument("--revision", help="a branch, tag or commit (default: main)")
    parser.add_argument("--dest", help="keep it in this folder instead of assets/datasets/<name>")
    parser.add_argument("--link", metavar="FOLDER", help="make FOLDER/data a link to it")
    parser.add_argument("--list", action="store_true", help="show what is in the store")
    parser.add_argument("--verify", action="store_true", help="compare stored files with the cards")
    arguments = parser.parse_args()
    if not (arguments.name or arguments.list or arguments.verify):
        parser.error("give --name NAME, --list or --verify")
    if arguments.link is not None and arguments.dest is not None:
        parser.error("--link goes to the store, --dest is outside of it; give one of them")
    return arguments


if __name__ == "__main__":
    main()
