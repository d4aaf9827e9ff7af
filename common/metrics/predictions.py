"""What a classifier said of a set of images: checked, averaged over models, written as CSV."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from common.utils.errors import DataError
from common.utils.files import atomic_write, explained_write

_DIGITS = 6  # significant digits of a written probability
_FIXED = ("file", "true", "predicted", "confidence")


class Predictions(NamedTuple):
    """A file of predictions, read back.

    Attributes:
        ids: N file names.
        labels: ``(N,)`` true classes, -1 where no truth is known.
        probabilities: ``(N, K)``, to six significant digits.
        class_names: K names.
    """

    ids: tuple[str, ...]
    labels: Int[Tensor, "N"]
    probabilities: Float[Tensor, "N K"]
    class_names: tuple[str, ...]


def check_predictions(
    logits: Tensor, labels: Tensor, class_names: Sequence[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Logits as float64 and labels as int64 on the CPU, if they can be measured.

    Args:
        logits: ``(N, K)``, any floating type.
        labels: ``(N,)``, any integer type.
        class_names: K names, if there are names.

    Raises:
        DataError: if shapes, types or the number of names do not agree, nothing is there, a logit
            is not finite, or a label names no class.
    """
    if logits.ndim != 2 or labels.ndim != 1 or len(logits) != len(labels):
        raise DataError(
            f"logits have shape {tuple(logits.shape)} and labels {tuple(labels.shape)}; "
            "expected (N, K) and (N,)"
        )
    count, classes = logits.shape
    if count < 1 or classes < 2:
        raise DataError(
            f"logits have shape {(count, classes)}; expected 1 or more images and 2 or more classes"
        )
    if class_names is not None and len(class_names) != classes:
        raise DataError(f"there are {len(class_names)} class names for {classes} columns of logits")
    if not logits.is_floating_point() or labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(
            f"logits are {logits.dtype} and labels {labels.dtype}; expected floats and integers"
        )
    logits, labels = logits.detach().cpu().double(), labels.detach().cpu().long()
    broken = (~logits.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if broken:
        raise DataError(
            f"the logits of {len(broken)} of {count} images are not finite (first: {broken[0]}); "
            "the model has diverged, or its precision overflows"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"labels go from {low} to {high}; expected 0 to {classes - 1}")
    return logits, labels


def ensemble_logits(members: Sequence[Float[Tensor, "N K"]]) -> Float[Tensor, "N K"]:
    """Logits whose softmax is the mean of the members' softmax probabilities.

    It is the logarithm of that mean, so whatever takes logits takes an ensemble.

    Args:
        members: Logits of several models for the same images in the same order.

    Raises:
        DataError: if there are none, or their shapes differ.
    """
    shapes = sorted({tuple(member.shape) for member in members})
    if len(shapes) != 1:
        raise DataError(
            f"an ensemble needs logits of one shape, received {shapes or 'none'}; "
            "every model must see the same images and know the same classes"
        )
    log_probabilities = torch.stack([member.double().log_softmax(dim=1) for member in members])
    return log_probabilities.logsumexp(dim=0) - math.log(len(members))


def write_predictions(
    path: Path | str,
    ids: Sequence[str],
    labels: Int[Tensor, "N"] | None,
    probabilities: Float[Tensor, "N K"],
    class_names: Sequence[str],
) -> None:
    """Write one line per image: file, true, predicted, confidence, and each class's probability.

    Texts are quoted, so names with commas, quotes and line ends come back from any CSV reader as
    they were; bytes of a name that are no UTF-8 are written as they are. The columns of classes
    are named ``p(<class>)``, because a class may be called ``file``.

    Args:
        path: Where; missing directories are created, an older file is replaced at once.
        ids: N file names.
        labels: True classes; ``None``, or -1 for an image, leaves the column ``true`` empty.
        probabilities: Rows that sum to one.
        class_names: K names.

    Raises:
        DataError: if the numbers of names, labels and rows differ.
        FaultError: if the place cannot be written.
    """
    path = Path(path)
    count, classes = probabilities.shape
    lengths = {"ids": len(ids), "labels": count if labels is None else len(labels)}
    if set(lengths.values()) != {count} or len(class_names) != classes:
        raise DataError(
            f"probabilities have shape {(count, classes)}, with {lengths['ids']} file names, "
            f"{lengths['labels']} labels and {len(class_names)} class names"
        )
    truth = [-1] * count if labels is None else labels.tolist()
    with explained_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
            writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
            writer.writerow([*_FIXED, *(f"p({name})" for name in class_names)])
            for name, label, row in zip(ids, truth, probabilities.tolist(), strict=True):
                # The first of several equal ones, as argmax says elsewhere.
                best = row.index(max(row))
                shown = [float(f"{value:.{_DIGITS}g}") for value in row]
                true = class_names[label] if label >= 0 else ""
                writer.writerow([name, true, class_names[best], shown[best], *shown])
            text.flush()
            text.detach()


def read_predictions(path: Path | str) -> Predictions:
    """Read what ``write_predictions`` wrote.

    Raises:
        DataError: if it is no such file.
    """
    path = Path(path)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as predictions: {error}") from None
    names = tuple(column[2:-1] for column in header[len(_FIXED) :])
    if tuple(header[: len(_FIXED)]) != _FIXED or any(len(row) != len(header) for row in rows):
        raise DataError(
            f"{path} is no file of predictions; expected the columns {', '.join(_FIXED)} and one "
            "for each class"
        )
    index = {name: position for position, name in enumerate(names)}
    try:
        labels = [index[row[1]] if row[1] else -1 for row in rows]
        probabilities = [[float(value) for value in row[len(_FIXED) :]] for row in rows]
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} holds {error}, which is no class or no probability") from None
    return Predictions(
        tuple(row[0] for row in rows),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(probabilities, dtype=torch.float64).reshape(len(rows), len(names)),
        names,
    )
