"""A small matcher and folders of images for the tests of this folder."""

import functools
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from common.config import instantiate
from common.data.embedded import digit_products
from common.data.preprocessing import Preprocessing
from common.data.preprocessing_config import PreprocessingConfig
from projects.product_matching.core.matching.match_rules import MatchRule
from projects.product_matching.core.matching.matcher import Matcher

SECTION: dict[str, Any] = {
    "_target_": "common.models.EmbeddingNetwork",
    "backbone": {
        "_target_": "common.models.ConvBackbone",
        "in_channels": 1,
        "channels": [8, 16],
    },
    "embedding_dim": 16,
}


@functools.cache
def _products() -> dict[str, Any]:
    return digit_products.make()["test"]


def small_matcher(seed: int = 0, dimension: int = 16, **values: Any) -> Matcher:
    """With random weights; images that are alike have embeddings that are."""
    section = {**SECTION, "embedding_dim": dimension}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = instantiate(section)
    recipe = PreprocessingConfig(
        image_size=[32, 32], mode="L", resize="stretch", mean=[0.25], std=[0.2]
    )
    arguments: dict[str, Any] = {
        "network": network,
        "section": section,
        "preprocessing": Preprocessing(recipe),
        "rule": MatchRule(0.999),
        "class_names": ("one", "two"),
        "run": "first",
        "fold": 0,
        "score": 0.5,
    }
    return Matcher(**arguments | values)


def write_products(folder: Path, count: int, start: int = 0) -> list[Path]:
    """PNG files of ``embedded/digit_products`` in folders named by product, in sorted order."""
    data = _products()
    files = []
    for row in range(start, start + count):
        file = folder / f"{data['label'][row]:02d}" / f"{row:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data["image"][row]).save(file)
        files.append(file)
    return sorted(files)


def title_of(file: Path) -> str:
    """The title of a file that ``write_products`` wrote."""
    return str(_products()["title"][int(file.stem)])
