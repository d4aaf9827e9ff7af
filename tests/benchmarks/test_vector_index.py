"""What the benchmark of the index compares finds the same, and both grow."""

import math
from pathlib import Path

import pytest
import torch

from benchmarks import vector_index
from benchmarks.vector_index import Size
from projects.product_matching.core.index.vector_index import VectorIndex

faiss = pytest.importorskip("faiss")


def test_both_ways_hold_the_same_vectors_and_are_measured(tmp_path: Path) -> None:
    size = Size(400, 20)
    scores = []
    for way in (vector_index._BASELINE, "ours, flat"):
        directory = tmp_path / way[:4]
        directory.mkdir()
        values = vector_index.grown(way, directory, size)
        values |= vector_index.searched(way, str(directory), size.after)
        wanted = {"first", "last", "open", "one", "many", "memory"}
        assert wanted <= set(values)
        assert all(math.isfinite(value) for value in values.values())
        queries = vector_index._clustered(5, size.after, seed=3)
        if way == vector_index._BASELINE:
            index = faiss.read_index(str(directory / "flat.faiss"))
            assert index.ntotal == size.after
            scores.append(torch.from_numpy(index.search(queries.numpy(), 10)[0]))
        else:
            assert values["recall"] == 1.0
            found = VectorIndex.open(directory).search(queries, 10)
            scores.append(torch.stack([matches.scores for matches in found]))
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-6)
