"""Cross-validation as one result: every image predicted once, by a model that never saw it."""

import statistics
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.metrics.classification import ClassificationReport, classification_metrics
from common.metrics.intervals import Interval, mean_interval
from common.utils.errors import DataError
from common.utils.text import printable


@dataclass(frozen=True)
class Spread:
    """One metric over the folds.

    Attributes:
        values: By fold.
        mean: Of the folds, each counting the same.
        deviation: Standard deviation with ``ddof=1``; ``None`` for one fold.
        interval: Student's 95 % interval of the mean; ``None`` for one fold. Folds share training
            images, which makes it too narrow (Bengio & Grandvalet 2004).
    """

    values: tuple[float, ...]
    mean: float
    deviation: float | None
    interval: Interval | None


@dataclass(frozen=True)
class CrossValidationReport:
    """Out-of-fold predictions, pooled and by fold.

    Attributes:
        pooled: Over all images at once. AUROC and average precision then compare scores of
            different models; the means over folds do not.
        folds: By fold.
        spread: By metric, for metrics that every fold defines.
        ids: All images, fold after fold.
        logits: ``(N, K)`` of all images, in the same order.
        labels: ``(N,)`` likewise.
    """

    pooled: ClassificationReport
    folds: tuple[ClassificationReport, ...]
    spread: dict[str, Spread]
    ids: tuple[str, ...]
    logits: Tensor
    labels: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the predictions themselves."""
        return {
            "pooled": self.pooled.to_dict(),
            "folds": [fold.scalars() | {"images": fold.images} for fold in self.folds],
            "spread": {
                name: {
                    "mean": s.mean,
                    "deviation": s.deviation,
                    "interval": s.interval._asdict() if s.interval else None,
                    "values": list(s.values),
                }
                for name, s in self.spread.items()
            },
        }

    def to_text(self) -> str:
        """Mean and spread of each metric, then the report of the pooled predictions."""
        from common.metrics.report_text import aligned

        rows = [["Metric", "Mean", "Deviation", "95 % of the mean", "Folds"]]
        for name, s in self.spread.items():
            ends = f"{s.interval.low:.4f} to {s.interval.high:.4f}" if s.interval else "-"
            deviation = "-" if s.deviation is None else f"{s.deviation:.4f}"
            values = " ".join(f"{value:.4f}" for value in s.values)
            rows.append([name, f"{s.mean:.4f}", deviation, ends, values])
        head = f"{len(self.folds)} folds; deviation with ddof = 1; the interval is Student's, and"
        lines = [
            head,
            "rather too narrow, since folds share training images",
            "",
            *aligned(rows),
            "",
            "All out-of-fold predictions together",
            "",
        ]
        return "\n".join(lines) + "\n" + self.pooled.to_text()


def pooled_metrics(
    folds: Sequence[tuple[Sequence[str], Float[Tensor, "_ K"], Int[Tensor, "_"]]],
    class_names: Sequence[str] | None = None,
    top_k: int = 5,
    groups: Sequence[Hashable] | None = None,
) -> CrossValidationReport:
    """Pool the folds' predictions on their validation images.

    Args:
        folds: For each fold the ids, logits ``(n, K)`` and labels ``(n,)`` of its validation set.
        class_names: K names.
        top_k: As in ``classification_metrics``.
        groups: The group of each image, fold after fold, for the interval of the pooled accuracy.

    Raises:
        DataError: if there is no fold, an image is in two folds, or a fold cannot be measured.
    """
    if not folds:
        raise DataError("there is no fold to pool")
    for number, (ids, logits, _) in enumerate(folds):
        if len(ids) != len(logits):
            raise DataError(f"fold {number} has {len(ids)} ids for {len(logits)} rows of logits")
    widths = sorted({logits.shape[1] for _, logits, _ in folds})
    if len(widths) > 1:
        raise DataError(f"folds have logits of {widths} classes; expected one number")
    names = tuple(name for ids, _, _ in folds for name in ids)
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError(
            f"{len(twice)} images are validated in more than one fold (first: "
            f"{printable(twice[0])}); were the splits made anew between the folds?"
        )
    reports = tuple(classification_metrics(z, y, class_names, top_k) for _, z, y in folds)
    logits = torch.cat([z.detach().cpu().double() for _, z, _ in folds])
    labels = torch.cat([y.detach().cpu().long() for _, _, y in folds])
    scalars = [report.scalars() for report in reports]
    spread = {
        name: _spread([values[name] for values in scalars])
        for name in scalars[0]
        if all(name in values for values in scalars)
    }
    pooled = classification_metrics(logits, labels, class_names, top_k, groups=groups)
    return CrossValidationReport(pooled, reports, spread, names, logits, labels)


def _spread(values: list[float]) -> Spread:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(tuple(values), statistics.fmean(values), deviation, mean_interval(values))
