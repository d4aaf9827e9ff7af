"""Which images a run is about: ``splits.json`` beside its checkpoints, looked at when it goes on.

Whoever splits a data set anew, or resumes with another fold, would go on training with images that
were validated on, or are the test set, and nothing in the numbers would tell.
"""

import json
from pathlib import Path
from typing import Any

from common.utils.errors import DataError
from common.utils.files import atomic_write_text
from projects.image_classification.core.config import Config
from projects.image_classification.core.datasets import index_files
from projects.image_classification.core.folder.split_files import as_json, hash_lines
from projects.image_classification.core.index_files import read_index

NAME = "splits.json"


def check_lists(directory: Path, config: Config, fold: int) -> None:
    """Note the lists of a new run; of one that goes on, compare them.

    Args:
        directory: The run's.
        config: Its ``data.data_dir`` holds the lists; it may have been moved.
        fold: Which of them.

    Raises:
        DataError: if a list is missing, or is not the one that the run began with.
    """
    now = {split: _described(file) for split, file in index_files(config, fold).items()}
    try:
        before = json.loads((directory / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if directory.is_dir():  # other machines of the same run may not see it
            atomic_write_text(directory / NAME, as_json(now))
        return
    except (OSError, ValueError) as error:
        raise DataError(f"{directory / NAME} cannot be read ({error}); start a new run") from None
    for split, file in index_files(config, fold).items():
        if before.get(split) != now[split]:
            count = (before.get(split) or {}).get("images", "?")
            raise DataError(
                f"{file} is not the {split} list that {directory} began with ({count} images then, "
                f"{now[split]['images']} now, or others): weights would be measured on what they "
                "were trained on; put the lists back, or start a new run"
            )


def _described(file: Path) -> dict[str, Any]:
    names = read_index(file)
    digest = hash_lines([name.encode("utf-8", "surrogateescape") for name in names])
    return {"images": len(names), "sha256": digest}
