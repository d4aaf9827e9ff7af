"""What the tests of the index run in processes of their own."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import faiss  # noqa: F401 (before the fork)
import torch

from common.testing import faults
from projects.product_matching.core.index import changes
from projects.product_matching.core.index.vector_index import VectorIndex
from tests.projects.product_matching.indexes import names, points


def change(
    directory: str, count: int = 20, fault: dict[str, Any] | None = None, **limits: int
) -> None:
    """Double ``count`` vectors, replace four; with ``limits`` compact, and build a segment."""
    _set(limits)
    index = VectorIndex.open(Path(directory))
    dimension = index.info().dimension
    with _entered(fault):
        added = points(count + 4, dimension, seed=5)
        index.add(names(count - 4, 2 * count), added, existing="replace")


def add_in_turns(directory: str, label: str, times: int) -> None:
    """Add ten vectors again and again."""
    index = VectorIndex.open(Path(directory))
    for turn in range(times):
        index.add([f"{label}/{turn}/{row}" for row in range(10)], points(10, 16, seed=turn))


def memory(directory: str, queries: int) -> None:
    """Print by how many MB the memory of its own grows that a process opens and searches with."""
    torch.randn(64, 64) @ torch.randn(64, 64)
    before = _anonymous()
    index = VectorIndex.open(Path(directory))
    asked = points(queries, index.info().dimension, seed=7)
    assert len(index.search(asked, 10)) == queries
    print(f"grown {(_anonymous() - before) / 1e6:.1f} MB")


def _anonymous() -> int:
    """Bytes that could not be read from a file again: RssAnon."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise LookupError("RssAnon")


def _set(limits: dict[str, int]) -> None:
    if "least_removed" in limits:
        changes.LEAST_REMOVED = limits["least_removed"]
    if "from_rows" in limits:
        changes.FROM_ROWS["auto"] = limits["from_rows"]


def _entered(fault: dict[str, Any] | None) -> AbstractContextManager[Any]:
    if fault is None:
        return nullcontext()
    arguments = dict(fault)
    if "below" in arguments:
        arguments["below"] = Path(arguments["below"])
    context: AbstractContextManager[Any] = getattr(faults, arguments.pop("kind"))(**arguments)
    return context
