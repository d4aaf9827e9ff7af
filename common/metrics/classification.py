"""How good a classifier is, computed once from all its logits: a report of plain numbers.

Averages over classes leave out classes without a test image, and say so; what is undefined is
``None`` and never NaN. Counting is exact: everything but AUROC and average precision is a ratio of
integers or a float64 mean.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.metrics.calibration import reliability_bins
from common.metrics.intervals import Interval, bootstrap_interval, wilson_interval
from common.metrics.predictions import check_predictions
from common.utils.text import printable

ECE_BINS = 15
_LISTED = 5  # names in a note


@dataclass(frozen=True)
class ClassScores:
    """One class against all others.

    Attributes:
        name: Of the class.
        support: Test images of this class.
        predicted: Test images the model gave this class.
        precision: Right ones among the predicted; ``None`` if nothing was predicted.
        recall: Right ones among the class's images; ``None`` without images.
        f1: ``2 TP / (support + predicted)``; ``None`` without images.
        auroc: Area under the ROC curve; ``None`` if all or no images are of this class.
        average_precision: Area under the precision-recall curve, as steps; ``None`` as for AUROC.
    """

    name: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    auroc: float | None
    average_precision: float | None


@dataclass(frozen=True)
class Averages:
    """Precision, recall and F1 averaged over the classes that have test images.

    A class that is never predicted counts with precision 0.

    Attributes:
        precision: Mean of the classes' precision.
        recall: Mean of the classes' recall.
        f1: Mean of the classes' F1.
    """

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ClassificationReport:
    """All that was measured on one set of images.

    Attributes:
        images: Number of test images, N.
        accuracy: Share of images whose highest logit is the true class's (the first of equals).
        interval: Of the accuracy.
        interval_method: How ``interval`` was made, in words.
        confidence: Of the interval.
        top_k: The k of ``top_k_accuracy``, at most the number of classes.
        top_k_accuracy: Share of images whose true class is among the k highest logits.
        balanced_accuracy: Mean recall of the classes with test images.
        macro: Every class counts the same.
        weighted: Every class counts by its test images.
        mcc: Matthews' correlation coefficient (Gorodkin's for K classes), 0 if undefined.
        cohen_kappa: Agreement beyond chance; ``None`` if truth and prediction are one same class.
        auroc: Macro mean of the classes' one-vs-rest AUROC; ``None`` if none is defined.
        average_precision: Macro mean of the classes' average precision; ``None`` likewise.
        log_loss: Mean negative log-likelihood in nats.
        brier: Mean of ``sum_k (p_k - y_k)^2``, from 0 to 2.
        ece: Expected calibration error over ``ece_bins`` bins of equal width.
        ece_bins: Number of bins.
        classes: Scores of each class, in the order of the logits.
        confusion: Counts, true class by row and predicted class by column.
        notes: What a reader must know about the numbers above.
    """

    images: int
    accuracy: float
    interval: Interval
    interval_method: str
    confidence: float
    top_k: int
    top_k_accuracy: float
    balanced_accuracy: float
    macro: Averages
    weighted: Averages
    mcc: float
    cohen_kappa: float | None
    auroc: float | None
    average_precision: float | None
    log_loss: float
    brier: float
    ece: float
    ece_bins: int
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the logits."""
        return tuple(scores.name for scores in self.classes)

    def scalars(self) -> dict[str, float]:
        """The defined single numbers by name, for a logger: ``accuracy``, ``top5_accuracy`` ..."""
        found: dict[str, float | None] = {
            "accuracy": self.accuracy,
            f"top{self.top_k}_accuracy": self.top_k_accuracy,
            "balanced_accuracy": self.balanced_accuracy,
        }
        for kind, averages in (("macro", self.macro), ("weighted", self.weighted)):
            found |= {f"{name}_{kind}": value for name, value in asdict(averages).items()}
        single = ("mcc", "cohen_kappa", "auroc", "average_precision", "log_loss", "brier", "ece")
        found |= {name: getattr(self, name) for name in single}
        return {name: value for name, value in found.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is ``None``."""
        values = asdict(self)
        values["interval"] = self.interval._asdict()
        k = values.pop("top_k")
        values[f"top{k}_accuracy"] = values.pop("top_k_accuracy")
        values["classes"] = list(values["classes"])
        values["confusion"] = [list(row) for row in self.confusion]
        values["notes"] = list(self.notes)
        return values

    def to_text(self) -> str:
        """The report as lines for a terminal or a file."""
        from common.metrics.report_text import report_text

        return report_text(self)


def classification_metrics(
    logits: Float[Tensor, "N K"],
    labels: Int[Tensor, "N"],
    class_names: Sequence[str] | None = None,
    top_k: int = 5,
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> ClassificationReport:
    """Measure a classifier on a set of images.

    Args:
        logits: Or log-probabilities; a softmax turns them into probabilities.
        labels: True classes.
        class_names: ``"0"``, ``"1"``, ... by default.
        top_k: Clamped to the number of classes; the report names the k that was used.
        groups: Patients, products ... of which several images may be in the set: the interval is
            then a bootstrap over groups instead of Wilson's, which takes images as independent.
        confidence: Of the interval.
        seed: Of the bootstrap.

    Raises:
        DataError: if shapes or numbers are wrong, or the logits are not finite.
    """
    logits, labels = check_predictions(logits, labels, class_names)
    count, number = logits.shape
    names = tuple(class_names) if class_names is not None else tuple(map(str, range(number)))
    k = max(1, min(top_k, number))
    log_p = logits.log_softmax(dim=1)
    p = log_p.exp()
    # A stable order makes top-k agree with the predicted class where logits are equal.
    order = logits.sort(dim=1, descending=True, stable=True).indices
    predicted = order[:, 0]
    right = predicted == labels
    hits = (order[:, :k] == labels[:, None]).any(dim=1)
    matrix = _confusion(predicted, labels, number)
    classes = _class_scores(matrix, _log_odds(log_p), labels, names)
    present = [scores for scores in classes if scores.support]
    if groups is None:
        interval = wilson_interval(int(right.sum()), count, confidence)
        method = "Wilson's interval, images taken as independent"
    else:
        interval = bootstrap_interval(right.double().numpy(), groups, seed, confidence=confidence)
        method = f"bootstrap over {len(set(groups))} groups of images"
    one_hot = torch.nn.functional.one_hot(labels, number)
    aurocs = [scores.auroc for scores in present if scores.auroc is not None]
    precisions = [s.average_precision for s in present if s.average_precision is not None]
    macro = _averages(present, [1] * len(present))
    return ClassificationReport(
        images=count,
        accuracy=int(right.sum()) / count,
        interval=interval,
        interval_method=method,
        confidence=confidence,
        top_k=k,
        top_k_accuracy=int(hits.sum()) / count,
        balanced_accuracy=macro.recall,
        macro=macro,
        weighted=_averages(present, [scores.support for scores in present]),
        mcc=_mcc(matrix),
        cohen_kappa=_kappa(matrix),
        auroc=math.fsum(aurocs) / len(aurocs) if aurocs else None,
        average_precision=math.fsum(precisions) / len(precisions) if precisions else None,
        log_loss=float(-log_p.gather(1, labels[:, None]).mean()),
        brier=float((p - one_hot).square().sum(dim=1).mean()),
        ece=reliability_bins(logits, labels, ECE_BINS).ece,
        ece_bins=ECE_BINS,
        classes=classes,
        confusion=tuple(tuple(row) for row in matrix.tolist()),
        notes=_notes(classes, k, top_k),
    )


def _confusion(predicted: Tensor, labels: Tensor, number: int) -> Tensor:
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    return multiclass_confusion_matrix(predicted, labels, num_classes=number).long()


def _log_odds(log_p: Tensor) -> Tensor:
    """``log(p / (1 - p))``: the order of the probabilities, also of those that round to 0 or 1.

    To nine decimals, so that equal ones stay equal however they were summed.
    """
    top = log_p.argmax(dim=1, keepdim=True)
    rest = log_p.scatter(1, top, -math.inf).logsumexp(dim=1, keepdim=True)
    against = torch.log1p(-log_p.exp().clamp(max=0.5)).scatter(1, top, rest)
    return (log_p - against).round(decimals=9)


def _class_scores(
    matrix: Tensor, log_odds: Tensor, labels: Tensor, names: tuple[str, ...]
) -> tuple[ClassScores, ...]:
    from torchmetrics.functional.classification import binary_auroc, binary_average_precision

    scores = []
    supports, predictions = matrix.sum(dim=1).tolist(), matrix.sum(dim=0).tolist()
    for index, name in enumerate(names):
        hits, support, predicted = int(matrix[index, index]), supports[index], predictions[index]
        auroc = average_precision = None
        if 0 < support < len(labels):
            of_class = (labels == index).long()
            # Both look at the order only; the places in it are apart in any precision.
            places = log_odds[:, index].unique(return_inverse=True)[1] / len(labels)
            auroc = float(binary_auroc(places, of_class, validate_args=False))
            average_precision = float(
                binary_average_precision(places, of_class, validate_args=False)
            )
        scores.append(
            ClassScores(
                name=name,
                support=support,
                predicted=predicted,
                precision=hits / predicted if predicted else None,
                recall=hits / support if support else None,
                f1=2 * hits / (support + predicted) if support else None,
                auroc=auroc,
                average_precision=average_precision,
            )
        )
    return tuple(scores)


def _averages(present: Sequence[ClassScores], weights: Sequence[int]) -> Averages:
    def mean(name: str) -> float:
        values = [getattr(scores, name) or 0.0 for scores in present]
        terms = (w * value for w, value in zip(weights, values, strict=True))
        return math.fsum(terms) / sum(weights)

    return Averages(mean("precision"), mean("recall"), mean("f1"))


def _mcc(matrix: Tensor) -> float:
    """Gorodkin 2004, equation 8, in whole numbers up to the root."""
    true, predicted = matrix.sum(dim=1).tolist(), matrix.sum(dim=0).tolist()
    count, hits = sum(true), int(matrix.trace())
    covariance = count * hits - sum(t * p for t, p in zip(true, predicted, strict=True))
    of_true = count * count - sum(t * t for t in true)
    of_predicted = count * count - sum(p * p for p in predicted)
    if not of_true or not of_predicted:
        return 0.0  # one of them is constant: no correlation
    return covariance / (math.sqrt(of_true) * math.sqrt(of_predicted))


def _kappa(matrix: Tensor) -> float | None:
    """Cohen 1960; undefined if chance alone would agree always."""
    true, predicted = matrix.sum(dim=1).tolist(), matrix.sum(dim=0).tolist()
    count, hits = sum(true), int(matrix.trace())
    by_chance = sum(t * p for t, p in zip(true, predicted, strict=True))
    if by_chance == count * count:
        return None
    return (count * hits - by_chance) / (count * count - by_chance)


def _notes(classes: Sequence[ClassScores], k: int, wanted: int) -> tuple[str, ...]:
    notes = []
    absent = [scores.name for scores in classes if not scores.support]
    if absent:
        shown = ", ".join(printable(name) for name in absent[:_LISTED])
        more = f" and {len(absent) - _LISTED} more" if len(absent) > _LISTED else ""
        notes.append(
            f"{len(absent)} of {len(classes)} classes have no test image and are left out of all "
            f"averages over classes: {shown}{more}"
        )
    never = [s.name for s in classes if s.support and not s.predicted]
    if never:
        shown = ", ".join(printable(name) for name in never[:_LISTED])
        more = f" and {len(never) - _LISTED} more" if len(never) > _LISTED else ""
        notes.append(
            f"{len(never)} of {len(classes)} classes are never predicted; their precision counts "
            f"as 0 in the averages: {shown}{more}"
        )
    if k == len(classes):
        asked = f"top-{wanted} was asked for; " if wanted != k else ""
        notes.append(f"{asked}top-{k} of {k} classes is always 1 and says nothing")
    return tuple(notes)
