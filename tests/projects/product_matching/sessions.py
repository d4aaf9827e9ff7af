"""A small session on real files, made once, and the processes that are killed in one."""

import functools
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.config import compose, load_run_config
from common.data.embedded import digit_products
from projects.product_matching.core.config import Config
from projects.product_matching.core.pooling_log import PoolingLog
from projects.product_matching.core.session import Finished, run_session

PROJECT = Path(sys.modules[Config.__module__].__file__ or "").parents[1]
LABELS, EACH = 8, 4
SMALL = [
    "data.batch_size=16",
    "model=small",
    "model.backbone.channels=[8,16]",
    "model.embedding_dim=16",
    "folds.count=2",
    "trainer.max_epochs=null",
    "trainer.max_steps=4",
    "trainer.save_every=2",
    "trainer.log_every=1",
    "trainer.loggers=[]",
    "scheduler.warmup_steps=1",
]


def write_photos(folder: Path) -> Path:
    """Photos of digit products as PNG files, a sub-folder for each product, and ``items.csv`` above."""
    split = digit_products.make()["train"]
    lines = ["image,label,title"]
    for label in np.unique(split["label"])[:LABELS]:
        rows = np.flatnonzero(split["label"] == label)[:EACH]
        (folder / f"p{label}").mkdir(parents=True)
        for place, row in enumerate(rows):
            name = f"p{label}/{place}.png"
            Image.fromarray(split["image"][row]).save(folder / name)
            lines.append(f"{name},p{label},{split['title'][row]}")
    (folder / "items.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def composed(*words: str) -> tuple[Config, Any]:
    """A configuration as the command line composes it."""
    return compose(Config, PROJECT / "run.py", None, list(words))


def train(home: Path, *words: str, stored: Callable[[Path], None] = lambda path: None) -> Finished:
    """A new session at ``home``; words win over those of ``SMALL``."""
    keys = {word.partition("=")[0] for word in words}
    small = [word for word in SMALL if word.partition("=")[0] not in keys]
    config, context = composed(*small, *words)
    context.experiment = "product_matching"
    return run_session(config, context, home, stored)


def resume(home: str) -> None:
    """Go on with a session, as ``--resume`` does."""
    config, context = load_run_config(Config, home)
    context.resume = Path(home)
    run_session(config, context, Path(home))


def train_and_die(home: str, photos: str, fold: str, step: int) -> None:
    """A session whose process is killed at an update of a fold."""
    before = PoolingLog.on_log

    def on_log(self: PoolingLog, trainer: Any, record: dict[str, Any]) -> None:
        before(self, trainer, record)
        if trainer.run.directory.name == fold and trainer.state.step == step:
            trainer.settle()
            os.kill(os.getpid(), signal.SIGKILL)

    PoolingLog.on_log = on_log  # type: ignore[method-assign]
    train(Path(home), f"data.folder={photos}", "pictures.draw=false")


@functools.cache
def finished() -> tuple[tempfile.TemporaryDirectory[str], Finished]:
    """``photos/`` and a session over its CSV file with titles, with pictures; not to be changed."""
    kept = tempfile.TemporaryDirectory(prefix="products-")
    root = Path(kept.name)
    photos = write_photos(root / "photos")
    csv = f"data.csv={photos / 'items.csv'}"
    words = (csv, "text.mode=union", "text.max_features=200", "loss=subcenter_arcface")
    return kept, train(root / "session", *words, "pictures.queries=2")
