"""Retrieval metrics and the best threshold, beside FAISS alone and metric learning's libraries.

Embeddings of 128 numbers, five items a label on average, the 50 nearest of each among the others.
Ours finds them exactly, with ties by index, and computes every metric and the mean F1 at every
threshold; the peers compute precision at 1, R-precision and MAP@R of theirs, FAISS alone nothing.
Every sample is a process of its own, on one thread. OpenMetricLearning, which brings much along, is measured
where somebody has installed it: ``uv pip install open-metric-learning``.

    python -m benchmarks.retrieval                # 20,000 items
    python -m benchmarks.retrieval --large        # 60,000
"""

import ctypes
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import (
    Column,
    Measure,
    Result,
    command_line,
    fresh_processes,
    installed,
    interleave,
    timed,
)
from common.metrics import (
    MatchFold,
    Neighbors,
    best_pair_threshold,
    matching_curve,
    nearest_neighbors,
    retrieval_metrics,
)

_WIDTH, _NEIGHBORS, _PER_LABEL = 128, 50, 5
_SMALL, _LARGE, _QUICK = 20_000, 60_000, 2_000
_BASELINE, OURS = "FAISS flat search alone", "ours: all metrics, F1 curve"
PAIRS = "best F1 over pairs, "
SKLEARN = f"{PAIRS}scikit-learn"
_COLUMNS = [
    Column("seconds", "CPU, s", 3, "seconds"),
    Column("memory", "extra memory, MB", 0),
]

Found = Mapping[str, float]
Work = Callable[[], Found]


def retrieval(repeats: int, quick: bool = False, large: bool = False) -> Result:
    """Measure every installed way.

    Args:
        repeats: Interleaved rounds.
        quick: FAISS alone and ours, with 2,000 items.
        large: 60,000 items.
    """
    rows = [_BASELINE, OURS] if quick else _runnable()
    count = _QUICK if quick else _LARGE if large else _SMALL
    names = {row: f"{count} {row}" for row in rows}
    processes = fresh_processes("retrieval", names.values(), quick)
    measures: dict[str, Measure] = {row: processes[name] for row, name in names.items()}
    samples = interleave(measures, repeats, warm_up=0)  # a sample warms its own process up
    baselines = {row: SKLEARN if row.startswith(PAIRS) else _BASELINE for row in rows}
    named = {"faiss": "faiss-cpu", "pytorch_metric_learning": "pytorch-metric-learning"}
    named |= {"oml": "open-metric-learning", "sklearn": "scikit-learn"}
    versions = ", ".join(f"{n} {version(n)}" for module, n in named.items() if find_spec(module))
    notes = [
        f"{count:,} x {_WIDTH}, {_NEIGHBORS} neighbours; in brackets, times FAISS alone, or times "
        "scikit-learn. *Extra memory* is the peak of the process above what it held before, with "
        "its libraries loaded and the embeddings made. *Best F1 over pairs* is of "
        f"{count * _NEIGHBORS:,} pairs, the neighbours found: `precision_recall_curve` and the "
        "largest harmonic mean, or our search that sorts only what can hold it. "
        f"{versions}."
    ]
    return Result("retrieval_large" if large else "retrieval", _COLUMNS, samples, baselines, notes)


def make_items(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit rows around the centre of their label, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, count // _PER_LABEL, (count,), generator=generator)
    centres = torch.randn(count // _PER_LABEL, _WIDTH, generator=generator)
    rows = centres[labels] + 1.5 * torch.randn(count, _WIDTH, generator=generator)
    return F.normalize(rows), labels


def _faiss_alone(rows: Tensor, labels: Tensor) -> Work:
    import faiss

    def work() -> Found:
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows.numpy())
        index.search(rows.numpy(), _NEIGHBORS + 1)  # itself is among them
        return {}

    return work


def _ours(backend: str) -> Callable[[Tensor, Tensor], Work]:
    def prepare(rows: Tensor, labels: Tensor) -> Work:
        def work() -> Found:
            found = nearest_neighbors(rows, k=_NEIGHBORS, backend=backend)
            report = retrieval_metrics(found.ids, labels)
            curve = matching_curve(MatchFold(found, labels))
            values = {"r_precision": report.r_precision, "map_at_r": report.map_at_r}
            known = {key: value for key, value in values.items() if value is not None}
            return known | {"precision_at_1": report.precision_at_1, "f1": curve.best[1]}

        return work

    return prepare


def _plain_torch(rows: Tensor, labels: Tensor) -> Work:
    def work() -> Found:
        ids = torch.empty(len(rows), _NEIGHBORS + 1, dtype=torch.int64)
        for start in range(0, len(rows), 1_000):
            scores = rows[start : start + 1_000] @ rows.T
            ids[start : start + 1_000] = scores.topk(_NEIGHBORS + 1).indices
        return {}

    return work


def _metric_learning(rows: Tensor, labels: Tensor) -> Work:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    names = {
        "precision_at_1": "precision_at_1",
        "r_precision": "r_precision",
        "mean_average_precision_at_r": "map_at_r",
    }
    calculator = AccuracyCalculator(
        include=tuple(names), k=_NEIGHBORS, device=torch.device("cpu"), avg_of_avgs=False
    )

    def work() -> Found:
        found = calculator.get_accuracy(rows, labels)
        return {ours: float(found[theirs]) for theirs, ours in names.items()}

    return work


def _open_metric_learning(rows: Tensor, labels: Tensor) -> Work:
    from oml.functional.knn import batched_knn
    from oml.functional.metrics import calc_retrieval_metrics

    def work() -> Found:
        every = torch.arange(len(rows))
        _, ids, true = batched_knn(rows, every, every, top_n=_NEIGHBORS, labels_gt=labels)
        metrics = calc_retrieval_metrics(
            ids,
            true,
            cmc_top_k=(1,),
            precision_top_k=(1,),
            map_top_k=(_NEIGHBORS,),
            reduce=False,
            verbose=False,
        )
        # NaN for queries with nothing to find.
        return {"precision_at_1": float(metrics["precision"][1].nanmean())}

    return work


def _pairs(rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of the neighbours found, and which are true."""
    found: Neighbors = nearest_neighbors(rows, k=_NEIGHBORS)
    return found.scores.flatten(), (labels[found.ids] == labels[:, None]).flatten()


def _sklearn_threshold(rows: Tensor, labels: Tensor) -> Work:
    import numpy as np
    from sklearn.metrics import precision_recall_curve

    scores, hits = (part.numpy() for part in _pairs(rows, labels))

    def work() -> Found:
        precision, recall, thresholds = precision_recall_curve(hits, scores)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
        best = int(f1[:-1].argmax())
        return {"threshold": float(thresholds[best]), "f1": float(f1[best])}

    return work


def _our_threshold(rows: Tensor, labels: Tensor) -> Work:
    scores, hits = _pairs(rows, labels)

    def work() -> Found:
        best = best_pair_threshold(scores, hits)
        return {"threshold": best.threshold, "f1": best.score}

    return work


# Row -> what prepares it, and the module it needs.
VARIANTS: dict[str, tuple[Callable[[Tensor, Tensor], Work], str]] = {
    _BASELINE: (_faiss_alone, "faiss"),
    OURS: (_ours("auto"), "torch"),
    "ours, by PyTorch alone": (_ours("torch"), "torch"),
    "blocks of PyTorch, search alone": (_plain_torch, "torch"),
    "pytorch-metric-learning": (_metric_learning, "pytorch_metric_learning"),
    "OpenMetricLearning": (_open_metric_learning, "oml"),
    SKLEARN: (_sklearn_threshold, "sklearn"),
    f"{PAIRS}ours": (_our_threshold, "torch"),
}


def sample(variant: str, quick: bool) -> dict[str, float]:
    """Seconds and megabytes of one variant, ``COUNT ROW``; of little work the fastest of five."""
    count, row = variant.split(" ", 1)
    prepare = VARIANTS[row][0]
    _faiss_on_one_thread()
    prepare(*make_items(500))()  # whatever is loaded at the first call
    work = prepare(*make_items(int(count)))
    before = _reset_peak()
    seconds = timed(work).cpu
    memory = (_kilobytes("VmHWM") - before) * 1024 / 1e6
    if row.startswith(PAIRS):
        seconds = min(seconds, *(timed(work).cpu for _ in range(4)))
    return {"seconds": seconds, "memory": memory}


def _runnable() -> list[str]:
    return installed({row: module for row, (_, module) in VARIANTS.items()})


def _faiss_on_one_thread() -> None:
    if find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(1)


def _reset_peak() -> int:
    """Give back what is free, forget the peak (Linux), and say what the process holds, in kB."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _kilobytes("VmRSS")


def _kilobytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found is not None
    return int(found[1])


if __name__ == "__main__":
    command_line(retrieval, repeats=5, sample=sample, large=partial(retrieval, large=True))
