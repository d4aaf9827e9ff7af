"""``ml-search``: search for good values of a configuration with Optuna; each trial is a training."""

import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence

from common.utils.errors import ConfigError, exit_on_error
from projects.image_classification.cli.arguments import Parser, overrides_of

EXAMPLES = (
    "ml-search --config configs/digits_config.yaml --n-trials 50",
    "ml-search --config configs/digits_config.yaml --n-trials 50 --resume --study-name digits",
    "ml-search --config configs/digits_config.yaml --fold all search.pruner.type=WilcoxonPruner",
    "ml-search --config configs/digits_config.yaml --storage journal:///digits.journal --join",
    "ml-train --config runs/optuna_studies/digits/best_config.yaml",
)
# Flags of this command, and the keys they set; the second says whether a value is text.
_KEYS = {
    "n_trials": ("search.n_trials", False),
    "timeout": ("search.timeout", False),
    "study_name": ("search.study_name", True),
    "storage": ("search.storage", True),
    "fold": ("search.fold", False),
}


def parser() -> Parser:
    """The command line of ``ml-search``."""
    parser = Parser("ml-search", __doc__ or "", EXAMPLES)
    parser.option(
        "config", "configuration with a section search; ml-init-config --optuna makes one"
    )
    parser.option("n_trials", "trials of this command; with --resume further ones", metavar="N")
    parser.option("study_name", "the study; the data set's name by default", metavar="NAME")
    parser.option(
        "storage",
        "where trials are kept: sqlite:///FILE, journal:///FILE (several processes), "
        "postgresql://... or mysql://... (several machines)",
        metavar="URL",
    )
    parser.option("resume", "go on with a study", action="store_true")
    parser.option(
        "join",
        "begin the study, or work on it beside other processes: the same line for each of them",
        action="store_true",
    )
    parser.option("fold", "fold that a trial trains, or all: their mean", metavar="K|all")
    parser.option("timeout", "seconds after which no trial begins", metavar="SECONDS")
    parser.option("n_jobs", "trials at once in this process: 1", default="1", metavar="1")
    parser.key_options("num_epochs", "batch_size", "lr", "device", "num_workers", "seed")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``ml-search``."""
    with exit_on_error():
        arguments, words = parser().words(argv)
        if arguments.config is None:
            raise ConfigError("ml-search: --config is missing; ml-init-config DATA_DIR --optuna")
        if arguments.resume and arguments.join:
            raise ConfigError("ml-search: --join also resumes; give one of --resume and --join")
        if arguments.n_jobs != "1":
            raise ConfigError(
                f"ml-search: --n-jobs is {arguments.n_jobs}; trials in threads of one process would "
                "share its random numbers and its record. Start the same command several times, "
                "with --join and --storage journal:///FILE"
            )
        # Two flags are keys of this command's own section.
        overrides = [
            *_own_overrides(arguments, words),
            *overrides_of(_without_own(arguments), words),
        ]
        from projects.image_classification.core.search.search import search

        mode = "resume" if arguments.resume else "join" if arguments.join else "create"
        report = search(arguments.config, overrides, mode)
        sys.stdout.write(report.table() + "\n")
        for path in report.plots:
            sys.stdout.write(f"plot: {path}\n")
        sys.stdout.write(f"all trials: {report.table_file}\n")
        sys.stdout.write(f"ml-train --config {shlex.quote(str(report.best_config))}\n")


def _own_overrides(arguments: Namespace, words: Sequence[str]) -> list[str]:
    from projects.image_classification.core.search.space import override_word

    found = []
    for name, (key, is_text) in _KEYS.items():
        value = getattr(arguments, name)
        if value is not None:
            found.append(override_word(key, value) if is_text else f"{key}={value}")
    return found


def _without_own(arguments: Namespace) -> Namespace:
    return Namespace(**{k: v for k, v in vars(arguments).items() if k not in _KEYS})


if __name__ == "__main__":
    main()
