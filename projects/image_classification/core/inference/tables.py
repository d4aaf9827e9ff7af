"""Predictions of image files as CSV; any name a file can have comes back from any CSV reader."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from common.metrics.predictions import write_predictions
from common.utils.files import atomic_write, explained_write
from projects.image_classification.core.inference.prediction import FilePredictions


def write_table_of_predictions(
    path: Path,
    made: FilePredictions,
    labels: Tensor | None,
    names: Sequence[str],
    top_k: int | None,
) -> None:
    """Write one line for each image that could be read.

    Args:
        path: An older file is replaced at once.
        made: What was said of the images.
        labels: True classes, -1 where none is known; ``None`` if none is.
        names: Of the classes.
        top_k: Columns ``class_2, probability_2, ...`` of the likeliest classes; ``None``: one
            column ``p(<class>)`` for every class, which ``common.metrics`` reads.

    Raises:
        FaultError: if the place cannot be written.
    """
    files = [str(file) for file in made.files]
    if top_k is None:
        write_predictions(path, files, labels, made.probabilities, names)
        return
    k = min(top_k, len(names))
    best = made.probabilities.sort(dim=1, descending=True, stable=True)
    header = ["file", "true", "predicted", "confidence"]
    header += [f"{what}_{rank}" for rank in range(2, k + 1) for what in ("class", "probability")]
    rows: list[list[Any]] = []
    truth = [-1] * len(files) if labels is None else labels.tolist()
    columns = zip(files, truth, best.indices.tolist(), best.values.tolist(), strict=True)
    for file, label, order, values in columns:
        ranked = [[names[i], float(f"{p:.6g}")] for i, p in zip(order, values, strict=True)][:k]
        row = [file, names[label] if label >= 0 else ""]
        rows.append(row + [cell for pair in ranked for cell in pair])
    _write_table(path, header, rows)


def write_unreadable(output: Path, unreadable: Mapping[Path, str]) -> Path:
    """Write why images could not be read beside the predictions; the file it wrote."""
    path = output.with_name(f"{output.stem}.unreadable.csv")
    rows = [[str(file), reason] for file, reason in unreadable.items()]
    _write_table(path, ["file", "reason"], rows)
    return path


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """As CSV; bytes of a file name that are no UTF-8 are written as they are."""
    with explained_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
            writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)
            text.flush()
            text.detach()
