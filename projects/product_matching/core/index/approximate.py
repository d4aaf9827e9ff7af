"""Structures that find neighbours without a look at every vector: IVF and HNSW, from a file.

A segment covers a range of rows and never changes. Its inverted lists lie in a file that FAISS maps
(``OnDiskInvertedLists``), or its graph in one that FAISS maps as it was written, so that opening
one costs no memory. Lists hold a copy of the vectors: what is looked at lies together on the disk.
How much of it is looked at is tuned when it is built, until ``_RECALL`` of the ten nearest that it
holds are found, for some rows of the index.

    ivf file   per list: vectors (n, D) float32, then rows (n,) int64;
               at the end the centroids (L, D) float32 and the lists' sizes (L,) uint64
"""

from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from common.utils.errors import ConfigError
from projects.product_matching.core.index.exact_scan import Gallery, nearest_rows, ranked
from projects.product_matching.core.index.manifest import Segment, segment_name
from projects.product_matching.core.index.store import check_size, mapped, new_file

_RECALL = 0.95  # of the ten nearest: where tuning stops
_NEAREST = 10
_ASKED = 128  # rows that recall is measured with
_PER_LIST = 64  # rows a list that the centroids are learned from
_ITERATIONS = 10  # of k-means
_ROWS = 1 << 14  # assigned or inserted at once
_NEIGHBORS, _BUILD_EFFORT = 32, 80  # M and efConstruction of HNSW
_LEAST_EFFORT = {"ivf": 4, "hnsw": 32}
_MOST_EFFORT = 2048  # efSearch, beyond which a graph is slower than looking at everything
_SPARE = 4  # neighbours beyond k, between which float64 decides


def need_faiss(kind: str) -> None:
    """Refuse a kind of index that needs FAISS where it is not installed.

    Raises:
        ConfigError: naming the extra.
    """
    if kind in ("ivf", "hnsw") and find_spec("faiss") is None:
        raise ConfigError(
            f"kind is '{kind}', which needs FAISS; install the extra `retrieval` "
            "(pip install 'reprise[retrieval]'), or use kind 'flat'"
        )


class OpenSegment:
    """A segment that can be searched.

    Args:
        directory: Of the index.
        segment: Which one.
        dimension: D.
        metric: ``cosine`` or ``euclidean``.

    Raises:
        FileNotFoundError: if its file is gone.
        FaultError: if its file is shorter than it was.
    """

    def __init__(self, directory: Path, segment: Segment, dimension: int, metric: str) -> None:
        faiss = _faiss()
        self.segment = segment
        path = directory / segment_name(segment.number, segment.kind)
        check_size(path, segment.size)
        if segment.kind == "ivf":
            self._index = self._mapped_lists(path, dimension, metric)
        else:
            self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)

    def search(
        self, queries: Float[Tensor, "Q D"], k: int, alive: NDArray[np.bool_] | None
    ) -> Int[Tensor, "Q M"]:
        """Candidates for the k nearest of the segment's rows; -1 where too few were found.

        Args:
            queries: float32, of length 1 where the metric is ``cosine``.
            k: Neighbours wanted.
            alive: Which rows of the whole index count; ``None`` if all do.
        """
        faiss = _faiss()
        segment, wanted = self.segment, min(k + _SPARE, self.segment.stop - self.segment.start)
        options: dict[str, Any] = {}
        if alive is not None:
            bits = np.packbits(alive[segment.start : segment.stop], bitorder="little")
            options["sel"] = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        if segment.kind == "ivf":
            # Recall was measured with few neighbours; many need more lists to be found in.
            share = 4 * wanted * segment.lists // (segment.stop - segment.start)
            probes = min(max(segment.effort, share), segment.lists)
            parameters = faiss.SearchParametersIVF(nprobe=probes, **options)
        else:
            effort = max(segment.effort, 2 * wanted)
            parameters = faiss.SearchParametersHNSW(efSearch=effort, **options)
        _, rows = self._index.search(queries.numpy(), wanted, params=parameters)
        found = torch.from_numpy(rows)
        return torch.where(found < 0, found, found + segment.start)

    def _mapped_lists(self, path: Path, dimension: int, metric: str) -> Any:
        faiss = _faiss()
        count, rows = self.segment.lists, self.segment.stop - self.segment.start
        lists_bytes = rows * (4 * dimension + 8)
        file = mapped(path, self.segment.size, "u1")
        centroids = file[lists_bytes : lists_bytes + 4 * count * dimension]
        sizes = file[lists_bytes + 4 * count * dimension :].copy().view(np.uint64)
        lists = faiss.OnDiskInvertedLists()
        lists.nlist, lists.code_size = count, 4 * dimension
        lists.filename, lists.read_only = str(path), True
        lists.prefetch_nthread = 0  # threads that read ahead cost more than a page fault
        lists.totsize = lists_bytes
        lists.lists.resize(count)
        lists.set_all_lists_sizes(faiss.swig_ptr(sizes))
        lists.do_mmap()
        quantizer = _flat(dimension, metric)
        quantizer.add(centroids.copy().view(np.float32).reshape(count, dimension))
        index = faiss.IndexIVFFlat(quantizer, dimension, count, quantizer.metric_type)
        index.replace_invlists(lists, False)
        index.ntotal = rows
        self._kept = (quantizer, lists)  # the index points at them
        return index


def build_segment(
    directory: Path, gallery: Gallery, kind: str, number: int, start: int, stop: int
) -> Segment:
    """Write a segment over the rows ``start`` to ``stop``, and tune it.

    Args:
        directory: Of the index.
        gallery: Its vectors.
        kind: ``ivf`` or ``hnsw``. A graph is built in memory, vectors included.
        number: For its file.
        start: First row.
        stop: Row after the last.

    Returns:
        The segment, which counts once the manifest names it.

    Raises:
        FaultError: if the file cannot be written.
    """
    vectors = gallery.vectors[start:stop]
    path = directory / segment_name(number, kind)
    lists = max(1, int(len(vectors) ** 0.5)) if kind == "ivf" else 0
    with new_file(path) as file:
        if kind == "ivf":
            _write_lists(file, vectors, gallery.metric, lists)
        else:
            _write_graph(file, vectors, gallery.metric)
    made = Segment(number, kind, start, stop, lists, 0, 0.0, file.size, file.crc)
    return _tuned(directory, gallery, made)


def _write_lists(file: Any, vectors: NDArray[np.float32], metric: str, lists: int) -> None:
    faiss = _faiss()
    dimension = vectors.shape[1]
    drawn = np.random.default_rng(len(vectors)).permutation(len(vectors))[: lists * _PER_LIST]
    learned = faiss.Kmeans(
        dimension,
        lists,
        niter=_ITERATIONS,
        spherical=metric == "cosine",
        min_points_per_centroid=1,
        max_points_per_centroid=_PER_LIST,
    )
    learned.train(vectors[np.sort(drawn)])
    quantizer = _flat(dimension, metric)
    quantizer.add(learned.centroids)
    nearest = [
        quantizer.search(vectors[first : first + _ROWS], 1)[1][:, 0]
        for first in range(0, len(vectors), _ROWS)
    ]
    of_list = np.concatenate([block.astype(np.int32) for block in nearest])
    sizes = np.bincount(of_list, minlength=lists).astype(np.uint64)
    order = np.argsort(of_list, kind="stable")
    for rows in np.split(order, np.cumsum(sizes[:-1]).astype(np.int64)):
        file.write(vectors[rows])
        file.write(rows.astype(np.int64))
    file.write(np.ascontiguousarray(learned.centroids))
    file.write(sizes)


def _write_graph(file: Any, vectors: NDArray[np.float32], metric: str) -> None:
    faiss = _faiss()
    kind = _flat(vectors.shape[1], metric).metric_type
    graph = faiss.IndexHNSWFlat(vectors.shape[1], _NEIGHBORS, kind)
    graph.hnsw.efConstruction = _BUILD_EFFORT
    for first in range(0, len(vectors), _ROWS):
        graph.add(vectors[first : first + _ROWS])
    faiss.write_index(graph, faiss.PyCallbackIOWriter(file.write))


def _tuned(directory: Path, gallery: Gallery, segment: Segment) -> Segment:
    """Double the effort until the recall is reached, or everything is looked at.

    What must be found are the nearest of the whole index that lie in the segment: its own ten
    nearest may be far away if it is small, and nobody asks for them.
    """
    everything = replace(gallery, alive=None)
    drawn = np.random.default_rng(segment.number).permutation(segment.stop)[:_ASKED]
    rows = torch.from_numpy(np.sort(drawn))
    queries = torch.from_numpy(gallery.vectors[rows.numpy()])
    k = min(_NEAREST + 1, segment.stop)  # each row finds itself
    true = nearest_rows(queries, everything, k, 0, segment.stop)
    wanted = ((true.rows >= segment.start) & (true.rows != rows[:, None])).sum(1)
    opened = OpenSegment(directory, segment, gallery.vectors.shape[1], gallery.metric)
    most = segment.lists if segment.kind == "ivf" else _MOST_EFFORT
    effort = min(_LEAST_EFFORT[segment.kind], most)
    while True:
        opened.segment = replace(segment, effort=effort)
        among = opened.search(queries, k, None)
        found = ranked(queries, everything, among, among.shape[1])
        # By score: of copies of one picture any is as right as another.
        is_near = (found.scores >= true.scores[:, -1:]) & (found.rows != rows[:, None])
        right = int(is_near.sum(1).minimum(wanted).sum()) / max(1, int(wanted.sum()))
        if right >= _RECALL or effort == most or not wanted.any():
            recall = right if wanted.any() else 1.0
            return replace(segment, effort=effort, recall=round(recall, 4))
        effort = min(2 * effort, most)


def _flat(dimension: int, metric: str) -> Any:
    faiss = _faiss()
    return faiss.IndexFlatIP(dimension) if metric == "cosine" else faiss.IndexFlatL2(dimension)


def _faiss() -> Any:
    """Where it is not installed nothing of this module is called, but ``need_faiss``."""
    return import_module("faiss")
