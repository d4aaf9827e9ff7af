"""Two finished folds of a tiny data set, trained for real, for tests of what is done with them.

Twenty-eight images of each class of ``fruit``, whose colours are off by so much that some are
mistaken. What ``ml-train`` calls makes the runs, so every test reads what users' runs hold.
"""

import functools
import tempfile
from pathlib import Path

import pytest

from projects.image_classification.core.config_files import load_config
from projects.image_classification.core.folder.splitting import SplitOptions, split_dataset
from projects.image_classification.core.folds import train_folds
from tests.projects.image_classification.fruit import CLASSES, draw_fruit

CONFIG = """
data: {data_dir: data/fruit, eval_batch_size: 8}
preprocessing: {image_size: [12, 12], resize: stretch}
model: {type: custom, custom_architecture: tiny_net}
training: {num_epochs: 3, batch_size: 16, ema_decay: 0.9, loggers: []}
optimizer: {lr: 0.02}
evaluation: {plots: false}
"""


@functools.cache
def _project() -> tempfile.TemporaryDirectory[str]:
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


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory with ``data/fruit``, ``runs/fruit_fold_0`` and ``_1``, and ``_all``."""
    root = Path(_project().name)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def best(project: Path) -> Path:
    """The checkpoint of the first fold, as a user would type it."""
    return Path("runs/fruit_fold_0/weights/best.pt")
