"""Two finished folds of a tiny data set, trained for real, for tests of what is done with them.

Twenty-eight images of each class of ``fruit``, whose colours are off by so much that some are
mistaken. What ``ml-train`` calls makes the runs, so every test reads what users' runs hold.
"""

import functools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.image_classification.core.config_files import load_config
from projects.image_classification.core.folder.splitting import SplitOptions, split_dataset
from projects.image_classification.core.folds import train_folds

CLASSES = ("blå bær", "citron", "kirsch")  # in the order of the outputs
_COLOURS = ((60, 70, 190), (210, 200, 40), (190, 40, 60))
CONFIG = """
data: {data_dir: data/fruit, eval_batch_size: 8}
preprocessing: {image_size: [12, 12], resize: stretch}
model: {type: custom, custom_architecture: tiny_net}
training: {num_epochs: 3, batch_size: 16, ema_decay: 0.9, loggers: []}
optimizer: {lr: 0.02}
evaluation: {plots: false}
"""


def draw_fruit(
    label: int, seed: int, size: tuple[int, int] = (12, 10), tint: float = 0.0
) -> Image.Image:
    """A noisy image of a class; ``tint`` is how far its colour may be off."""
    draw = np.random.default_rng((label, seed))
    colour = draw.normal(_COLOURS[label], tint)
    noise = draw.normal(0, 50, (size[1], size[0], 3))
    return Image.fromarray(np.clip(noise + colour, 0, 255).astype(np.uint8))


@functools.cache
def finished_project() -> tempfile.TemporaryDirectory[str]:
    """``data/fruit``, ``runs/fruit_fold_0``, ``_1`` and ``_all``, made once; not to be changed."""
    kept = tempfile.TemporaryDirectory(prefix="fruit-")
    root = Path(kept.name)
    for label, name in enumerate(CLASSES):
        folder = root / "data" / "fruit" / "raw" / name
        folder.mkdir(parents=True)
        for number in range(28):
            draw_fruit(label, number, tint=75.0).save(folder / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        options = SplitOptions(folds=2, test_share=0.25, near_duplicates=False)
        split_dataset(Path("data/fruit/raw"), options)
        Path("config.yaml").write_text(CONFIG, encoding="utf-8")
        config, context = load_config("config.yaml", ["data.fold=all"])
        train_folds(config, context)
    return kept
