"""A folder of tiny photos, split, and a configuration that learns them in a second."""

from pathlib import Path

import numpy as np
from PIL import Image

from projects.image_classification.core.index_files import write_index

CLASSES = ("dark", "light", "middle")
_LEVELS = {"dark": 110, "middle": 128, "light": 146}
CONFIG = """
data: {data_dir: data/small, eval_batch_size: 32}
model: {type: custom, custom_architecture: tiny_net}
training: {num_epochs: EPOCHS, batch_size: 8, device: cpu, loggers: []}
optimizer: {name: adamw, lr: 0.01}
evaluation: {plots: false}
search:
  n_trials: 3
  search_space:
    optimizer.lr: {type: loguniform, low: 1.0e-4, high: 1.0e-1}
    training.batch_size: {type: categorical, choices: [6, 12]}
"""


def write_photos(folder: Path, per_class: int = 12, folds: int = 3, epochs: int = 1) -> None:
    """Write ``data/small`` with ``raw/`` and ``splits/``, and ``config.yaml``, into a folder.

    Args:
        folder: Where ``data/`` and the configuration go.
        per_class: Images of a class; a sixth of them are the test set.
        folds: Of the rest.
        epochs: Of a training; after one there are no curves to draw, half of its seconds.
    """
    generator = np.random.default_rng(0)
    parts: dict[str, list[str]] = {"test": [], **{str(k): [] for k in range(folds)}}
    for name in CLASSES:
        (folder / "data" / "small" / "raw" / name).mkdir(parents=True)
        for number in range(per_class):
            path = f"raw/{name}/{number}.png"
            pixels = generator.normal(_LEVELS[name], 50, (8, 8)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "data" / "small" / path)
            part = "test" if number % 6 == 5 else str(number % folds)
            parts[part].append(path)
    splits = folder / "data" / "small" / "splits"
    splits.mkdir()
    write_index(splits / "test.txt", parts["test"])
    for fold in range(folds):
        others = [path for k in range(folds) if k != fold for path in parts[str(k)]]
        write_index(splits / f"fold_{fold}_train.txt", others)
        write_index(splits / f"fold_{fold}_val.txt", parts[str(fold)])
    (folder / "config.yaml").write_text(CONFIG.replace("EPOCHS", str(epochs)))
