"""``ml-train``: train a classifier on one fold, or on every fold, and measure what came of it."""

import sys
from collections.abc import Sequence

from common.utils.errors import ConfigError, exit_on_error
from projects.image_classification.cli.arguments import Parser, overrides_of

EXAMPLES = (
    "ml-train --config configs/digits_config.yaml",
    "ml-train --config configs/digits_config.yaml --fold 2 --batch_size 64 --lr 0.01",
    "ml-train --config configs/digits_config.yaml --fold all",
    "ml-train --config configs/digits_config.yaml model.type=timm model.architecture=vit_tiny_patch16_224",
    "ml-train --resume runs/digits_fold_0/weights/last.pt",
    "accelerate launch --no_python --multi_gpu --num_processes 2 ml-train --config configs/digits_config.yaml",
)


def parser() -> Parser:
    """The command line of ``ml-train``."""
    parser = Parser("ml-train", __doc__ or "", EXAMPLES)
    parser.option("config", "configuration, as ml-init-config writes it")
    parser.option("resume", "go on with a run: its directory, or one of its weights/*.pt")
    parser.option("cfg", "print the final configuration and do nothing", choices=("job",))
    parser.option("dry_run", "make one update and evaluate", action="store_true")
    parser.key_options(
        *("fold", "batch_size", "num_epochs", "lr", "weight_decay", "momentum", "optimizer"),
        *("architecture", "trainer_type", "device", "num_workers", "seed"),
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``ml-train``."""
    with exit_on_error():
        arguments, words = parser().words(argv)
        overrides = overrides_of(arguments, words)
        if arguments.config is None and arguments.resume is None:
            raise ConfigError(
                "ml-train: --config or --resume is missing; ml-init-config DATA_DIR makes a config"
            )
        from projects.image_classification.core.config_files import load_config

        if arguments.cfg:
            sys.stdout.write(load_config(arguments.config, overrides)[1].to_yaml())
            return
        from common.utils.logging import setup_logger

        setup_logger()
        from projects.image_classification.core.folds import resume_folds, train_folds
        from projects.image_classification.core.run_directories import run_of
        from projects.image_classification.core.training import is_cross_validation, resume_fold

        if arguments.resume is None:
            config, context = load_config(arguments.config, overrides)
            context.dry_run = arguments.dry_run
            train_folds(config, context)
            return
        if arguments.dry_run:
            raise ConfigError("ml-train: --resume and --dry_run exclude each other")
        directory, checkpoint = run_of(arguments.resume)
        resume = resume_folds if is_cross_validation(directory) else resume_fold
        resume(directory, overrides, checkpoint=checkpoint, config_file=arguments.config)


if __name__ == "__main__":
    main()
