"""``ml-lr-finder``: train briefly while the learning rate grows, and say which rates are worth it."""

import shlex
import sys
from collections.abc import Sequence

from common.utils.arguments import show
from common.utils.errors import ConfigError, exit_on_error
from projects.image_classification.cli.arguments import Parser, overrides_of

EXAMPLES = (
    "ml-lr-finder --config configs/digits_config.yaml",
    "ml-lr-finder --config configs/digits_config.yaml --start_lr 1e-7 --end_lr 1 --num_iter 200",
    "ml-lr-finder --config configs/digits_config.yaml --fold 2 --beta 0.95 --diverge_threshold 2.0",
    "ml-lr-finder --config configs/digits_config.yaml optimizer.name=sgd optimizer.momentum=0.9",
)


def parser() -> Parser:
    """The command line of ``ml-lr-finder``."""
    parser = Parser("ml-lr-finder", __doc__ or "", EXAMPLES)
    parser.option("config", "configuration, as ml-init-config writes it")
    parser.option("start_lr", "the first rate (1e-7)", type=float, default=1e-7)
    parser.option("end_lr", "the last rate (1)", type=float, default=1.0)
    parser.option("num_iter", "updates from the first to the last (200)", type=int, default=200)
    parser.option(
        "beta", "weight of the past in the smoothed loss (0.95)", type=float, default=0.95
    )
    parser.option(
        "diverge_threshold",
        "end when the smoothed loss exceeds its lowest so many times (2.0)",
        type=float,
        default=2.0,
    )
    parser.key_options(
        "fold", "batch_size", "optimizer", "momentum", "weight_decay", "architecture"
    )
    parser.key_options("trainer_type", "device", "num_workers", "seed")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``ml-lr-finder``."""
    with exit_on_error():
        arguments, words = parser().words(argv)
        if arguments.config is None:
            raise ConfigError(
                "ml-lr-finder: --config is missing; ml-init-config DATA_DIR makes one"
            )
        overrides = overrides_of(arguments, words)
        from projects.image_classification.core.learning_rate import sweep_learning_rate

        found, directory = sweep_learning_rate(
            arguments.config,
            overrides,
            start_lr=arguments.start_lr,
            end_lr=arguments.end_lr,
            num_iter=arguments.num_iter,
            beta=arguments.beta,
            diverge_threshold=arguments.diverge_threshold,
        )
        rates = {"valley": found.valley, "steepest / 10": found.steepest}
        show({name: "none" if rate is None else f"{rate:.2e}" for name, rate in rates.items()})
        if found.remark:
            sys.stdout.write(f"{found.remark}\n")
        sys.stdout.write(f"record: {directory}\n")
        best = found.valley or found.steepest
        if best is not None:
            typed = "".join(f" {shlex.quote(word)}" for word in overrides)
            config = shlex.quote(arguments.config)
            sys.stdout.write(f"ml-train --config {config} --lr {best:.2e}{typed}\n")


if __name__ == "__main__":
    main()
