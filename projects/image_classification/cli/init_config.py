"""``ml-init-config``: write a configuration with every key, and what the images say filled in."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.utils.arguments import Parser, show
from common.utils.errors import ConfigError, DataError, exit_on_error

EXAMPLES = (
    "ml-init-config data/my_dataset              # configs/my_dataset_config.yaml",
    "ml-init-config data/my_dataset --optuna     # with a search space for ml-search",
    "ml-init-config data/my_dataset --fold 2 --output configs/second.yaml",
    "ml-init-config --demo data/digits           # 1,797 digits to try everything with",
)
CONFIGS = Path("configs")
_FOLDS = 5  # of the demonstration
# The demonstration: above 95% of the test digits in less than a minute on two cores.
_DEMO: dict[str, Any] = {
    "model.type": "custom",
    "model.custom_architecture": "simple_cnn",
    "training.num_epochs": 15,
    "training.batch_size": 64,
    "optimizer.lr": 0.003,
}


def parser() -> Parser:
    """The command line of ``ml-init-config``."""
    parser = Parser("ml-init-config", __doc__ or "", EXAMPLES)
    parser.add_argument("data_dir", nargs="?", help="folder that holds raw/<class>/ and splits/")
    parser.option("optuna", "fill in a search space for ml-search", action="store_true")
    parser.option("output", "the file (default: configs/<data_dir's name>_config.yaml)")
    parser.option("force", "replace the file if it exists", action="store_true")
    parser.option("fold", "take the training images of this fold (default: 0)", type=int)
    parser.option("demo", "write and split scikit-learn's digits there first", action="store_true")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``ml-init-config``."""
    with exit_on_error():
        arguments, words = parser().words(argv)
        if words:
            raise ConfigError(
                f"ml-init-config takes no '{words[0]}'; edit the file, or give it to ml-train"
            )
        if arguments.data_dir is None:
            raise ConfigError(
                "ml-init-config: the folder of the data set is missing, e.g. data/my_dataset (or "
                "--demo data/digits to try it without photos)"
            )
        data_dir = Path(os.path.normpath(Path(arguments.data_dir).expanduser()))
        name = data_dir.absolute().name
        output = _output(arguments.output, name, arguments.force)
        from common.utils.files import atomic_write_text, explained_write
        from common.utils.logging import setup_logger
        from projects.image_classification.core.config_template import dataset_template

        setup_logger()
        if arguments.demo:
            _write_demo(data_dir)
        made = dataset_template(
            data_dir,
            arguments.fold,
            searches=arguments.optuna,
            settings=_DEMO if arguments.demo else None,
        )
        with explained_write(output):
            output.parent.mkdir(exist_ok=True)
        atomic_write_text(output, made.text)
        recipe = made.config.preprocessing
        show(
            {
                "wrote": output,
                "from": made.seen,
                "classes": f"{len(made.counts)}, {_range(made.counts)}",
                "input": f"{recipe.mode} {' x '.join(map(str, recipe.image_size or ()))}",
            }
        )
        _show_next(data_dir, output, made.is_split, arguments.optuna)


def _output(given: str | None, name: str, force: bool) -> Path:
    """Where the file goes; checked before any image is opened."""
    from common.utils.paths import validate_name

    if given is None:
        validate_name(name, "the data set's name")
        output = CONFIGS / f"{name}_config.yaml"
        if CONFIGS.exists() and not CONFIGS.is_dir():
            raise ConfigError(f"{CONFIGS} is a file here; give --output FILE")
    else:
        output = Path(given).expanduser()
        if not output.parent.is_dir():
            raise ConfigError(
                f"--output is {given}, but there is no folder {output.parent}; make it"
            )
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; expected the name of a file")
    if not force and os.path.lexists(output):
        raise ConfigError(f"{output} exists; --force replaces it, --output FILE writes another")
    return output


def _write_demo(data_dir: Path) -> None:
    from projects.image_classification.core.folder.demo import write_demo
    from projects.image_classification.core.folder.splitting import SplitOptions, split_dataset

    try:
        raw = write_demo(data_dir)
    except DataError:
        if not (data_dir / "raw").exists():
            raise
        raise DataError(
            f"{data_dir}/raw holds something else than the demonstration; name a folder that does "
            "not exist, e.g. --demo data/digits"
        ) from None
    split_dataset(raw, SplitOptions(folds=_FOLDS))


def _range(counts: dict[str, int]) -> str:
    least, most = min(counts.values()), max(counts.values())
    return f"{most:,} images each" if least == most else f"with {least:,} to {most:,} images"


def _show_next(data_dir: Path, output: Path, is_split: bool, searches: bool) -> None:
    config = f"--config {shlex.quote(str(output))}"
    lines = [
        f"ml-visualise --mode samples {config}",
        f"ml-lr-finder {config}",
        f"ml-train {config}",
    ]
    if searches:
        lines.append(f"ml-search {config}")
    if not is_split:
        lines.insert(0, f"ml-split --raw_data {shlex.quote(str(data_dir / 'raw'))} --folds 5")
    sys.stdout.write("\nnext:\n" + "".join(f"  {line}\n" for line in lines))


if __name__ == "__main__":
    main()
