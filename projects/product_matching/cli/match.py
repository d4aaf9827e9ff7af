"""``match.py``: match the images of folders by a finished run, show neighbours of queries."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from common.utils.arguments import Parser
from common.utils.errors import ConfigError, exit_on_error

EXAMPLES = (
    "match.py --run RUN --images photos/",
    "match.py --run RUN --images photos/ --query photos/shoe.jpg --k 5 --out matched/",
    "match.py --run RUN --images photos/ --titles titles.csv --fold 2",
    "match.py index build --run RUN --images photos/ --index shop/    # see match.py index --help",
)


def parser() -> Parser:
    """The command line of ``match.py``."""
    parser = Parser("match.py", __doc__ or "", EXAMPLES)
    parser.option("run", "a run's directory or name, or a matcher.pt")
    parser.option("images", "folders (with all below), files or patterns", nargs="+")
    parser.option("query", "images whose neighbours are shown; they may lie elsewhere", nargs="+")
    parser.option("titles", "CSV file with the columns image and title, one line for each image")
    parser.option("out", "folder for matches.csv and pictures; default: matches_TIME in the run")
    parser.option("k", "neighbours of a query that are shown", type=int, default=10)
    parser.option("threshold", "in place of the one the run picked", type=float)
    parser.option("fold", "of the run; default: the one with the best score", type=int)
    common_options(parser)
    return parser


def common_options(parser: Parser) -> None:
    """What all commands that embed images have."""
    parser.option(
        "on_bad",
        "an image that cannot be read: skip (listed and counted), or fail",
        choices=("skip", "fail"),
        default="skip",
    )
    parser.option("batch_size", "images at a time", type=int, default=256)
    parser.option("num_workers", "processes that read ahead", type=int, default=0)
    parser.option("device", "auto, cpu, cuda or cuda:N", default="auto")


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``match.py``."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["index"]:
        from projects.product_matching.cli.index import main as index

        index(words[1:])
        return
    with exit_on_error():
        arguments = checked(parser(), words, ("run", "images"))
        if arguments.threshold is not None and not -1.0 <= arguments.threshold <= 1.0:
            raise ConfigError(
                f"match.py: --threshold is {arguments.threshold:g}; expected a cosine, from -1 to 1"
            )
        from common.utils import setup_logger
        from projects.product_matching.core.matching.folder_matching import (
            MatchOptions,
            match_folder,
        )

        setup_logger()
        match_folder(
            MatchOptions(
                run=arguments.run,
                images=tuple(arguments.images),
                queries=tuple(arguments.query or ()),
                titles=path_of(arguments.titles),
                out=path_of(arguments.out),
                k=arguments.k,
                threshold=arguments.threshold,
                fold=arguments.fold,
                on_bad=arguments.on_bad,
                batch_size=arguments.batch_size,
                workers=arguments.num_workers,
                device=arguments.device,
            )
        )


def checked(parser: Parser, words: Sequence[str], needed: Sequence[str]) -> Namespace:
    """The flags, of which some must be given.

    Raises:
        ConfigError: if one of those is missing, a word is none, or a number is too small.
    """
    arguments, rest = parser.words(words)
    if rest:
        raise ConfigError(
            f"{parser.prog} takes no key=value words; got {rest[0]}: a run keeps its own "
            "configuration"
        )
    for name in needed:
        if getattr(arguments, name) is None:
            raise ConfigError(f"{parser.prog}: --{name} is missing; see {parser.prog} --help")
    for name, least in (("k", 1), ("batch_size", 1), ("num_workers", 0), ("fold", 0)):
        value = getattr(arguments, name, None)
        if value is not None and value < least:
            raise ConfigError(f"{parser.prog}: --{name} is {value}, expected {least} or more")
    return arguments


def path_of(text: str | None) -> Path | None:
    """A path as it was typed, ``~`` included."""
    return None if text is None else Path(text).expanduser()
