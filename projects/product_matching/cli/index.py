"""``match.py index``: keep an index of images: build, add, remove, query, info."""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from common.utils.arguments import Parser
from common.utils.errors import ConfigError, exit_on_error
from common.utils.text import did_you_mean
from projects.product_matching.cli.match import checked, common_options, path_of

EXAMPLES = (
    "match.py index build --run RUN --images photos/ --index shop/",
    "match.py index add --index shop/ --images photos/ more/    # unchanged files are passed over",
    "match.py index query --index shop/ --query shoe.jpg --k 5 --out found/",
    "match.py index remove --index shop/ --images photos/old",
    "match.py index remove --index shop/ --gone",
    "match.py index info --index shop/",
)
_MEANINGS = {
    "build": "make an index and add images to it",
    "add": "add images that are new or have changed; a stopped addition goes on",
    "remove": "take images out of an index",
    "query": "find the images of an index that are nearest to others",
    "info": "say what an index holds",
}


def parser(action: str) -> Parser:
    """The command line of one action."""
    meaning = _MEANINGS[action]
    examples = [line for line in EXAMPLES if f"index {action} " in line]
    parser = Parser(f"match.py index {action}", f"{meaning[0].upper()}{meaning[1:]}.", examples)
    parser.option("index", "the index: a folder")
    if action in ("build", "add", "query"):
        needs = "" if action == "build" else "; default: the one that lies in the index"
        parser.option("run", f"a run's directory or name, or a matcher.pt{needs}")
        parser.option("fold", "of the run; default: the one with the best score", type=int)
        common_options(parser)
    if action in ("build", "add", "remove"):
        parser.option("images", "folders (with all below), files or patterns", nargs="+")
    if action == "build":
        parser.option(
            "kind",
            "flat looks at every vector, ivf and hnsw are approximate; auto: flat, and ivf from "
            "250,000 vectors",
            choices=("auto", "flat", "ivf", "hnsw"),
            default="auto",
        )
    elif action == "remove":
        parser.option(
            "gone", "remove images whose files are not there any more", action="store_true"
        )
    elif action == "query":
        parser.option("query", "images to look for: files, folders or patterns", nargs="+")
        parser.option("k", "neighbours that are shown", type=int, default=10)
        parser.option("out", "folder for a picture; default: none is drawn")
    return parser


def main(argv: Sequence[str]) -> None:
    """Run ``match.py index``."""
    with exit_on_error():
        action, *words = argv or ("--help",)
        if action in ("-h", "--help"):
            lines = [f"  {name:<8}{meaning}\n" for name, meaning in _MEANINGS.items()]
            sys.stdout.write(f"usage: match.py index ACTION ...\n\n{''.join(lines)}\nexamples:\n")
            sys.stdout.writelines(f"  {line}\n" for line in EXAMPLES)
            return
        if action not in _MEANINGS:
            raise ConfigError(
                f"match.py index: there is no '{action}'; {did_you_mean(action, _MEANINGS)}"
            )
        needed = {"build": ("index", "run", "images"), "add": ("index", "images")}
        needed["query"] = ("index", "query")
        arguments = checked(parser(action), words, needed.get(action, ("index",)))
        if action == "remove" and (arguments.images is None) == (not arguments.gone):
            raise ConfigError(
                "match.py index remove: expected either --images, or --gone for those whose files "
                "are not there any more"
            )
        if getattr(arguments, "fold", None) is not None and arguments.run is None:
            raise ConfigError(f"match.py index {action}: --fold belongs to --run, which is missing")
        from common.utils import setup_logger
        from projects.product_matching.core.index import commands

        setup_logger()
        directory = path_of(arguments.index)
        assert directory is not None
        run: dict[str, Callable[[Path, Namespace], None]] = {
            "build": commands.build,
            "add": commands.add,
            "remove": commands.remove,
            "query": commands.query,
            "info": commands.info,
        }
        run[action](directory, arguments)
