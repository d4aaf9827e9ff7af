"""Vectors, names and indexes for the tests of this folder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from projects.product_matching.core.index.manifest import ModelMark
from projects.product_matching.core.index.vector_index import VectorIndex

MARK = ModelMark(run="arcface/first", weights_sha256="a" * 64)


def points(count: int, dimension: int = 16, seed: int = 0, clusters: int = 0) -> Tensor:
    """Random rows, around as many centres as there are clusters."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, dimension, generator=generator)
    if clusters:
        centres = torch.randn(clusters, dimension, generator=generator)
        rows = centres[torch.randint(clusters, (count,), generator=generator)] + 0.2 * rows
    return rows


def names(start: int, stop: int) -> list[str]:
    """One for each row."""
    return [f"shoes/größe {row}.jpg" for row in range(start, stop)]


def filled(directory: Path, vectors: Tensor, **options: Any) -> VectorIndex:
    """An index of these vectors, under ``names``, added in three parts."""
    index = VectorIndex.create(directory, dimension=vectors.shape[1], model=MARK, **options)
    third = len(vectors) // 3
    for start, stop in ((0, third), (third, 2 * third), (2 * third, len(vectors))):
        index.add(names(start, stop), vectors[start:stop])
    return index
