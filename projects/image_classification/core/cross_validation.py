"""What the folds of a data set say together: out-of-fold predictions, spread, an ensemble's score."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger

from common.metrics.classification import ClassificationReport, classification_metrics
from common.metrics.cross_validation import CrossValidationReport, pooled_metrics
from common.metrics.predictions import ensemble_logits, write_predictions
from common.utils.errors import DataError, InputError
from common.utils.files import atomic_write_text
from common.visualization.tables import text_table
from projects.image_classification.core.config import Config
from projects.image_classification.core.folder.grouping import read_groups
from projects.image_classification.core.predictions import Predictions
from projects.image_classification.core.run_directories import dataset_name

if TYPE_CHECKING:
    from projects.image_classification.core.training import FoldOutcome


def report_folds(home: Path, config: Config, outcomes: "Mapping[int, FoldOutcome]") -> None:
    """Write ``out_of_fold.csv``, ``ensemble_test.csv``, ``report.txt`` and ``summary.json``; show them.

    Args:
        home: The record of all folds.
        config: Of any of the folds, for class names and top-k.
        outcomes: By fold.
    """
    names, top_k = list(config.data.class_names or ()), config.evaluation.top_k
    summary: dict[str, Any] = {
        "dataset": dataset_name(config),
        "folds": {str(number): outcome.directory.name for number, outcome in outcomes.items()},
        "made_by": _made_by(outcomes),
    }
    texts: list[str] = []
    rows: list[list[str]] = []
    held_out = [o.predictions["val"] for o in outcomes.values() if "val" in o.predictions]
    if held_out:
        pooled = pool(held_out, names, top_k, Path(config.data.data_dir))
        probabilities = pooled.logits.softmax(1)
        write_predictions(home / "out_of_fold.csv", pooled.ids, pooled.labels, probabilities, names)
        summary["out_of_fold"] = pooled.to_dict()
        texts.append("Out-of-fold predictions\n\n" + pooled.to_text())
        spread, all_of_them = pooled.spread["accuracy"], pooled.pooled
        deviation = "" if spread.deviation is None else f" ± {spread.deviation:.4f}"
        rows.append([f"folds, mean of {len(held_out)}", f"{spread.mean:.4f}{deviation}", ""])
        rows.append(["folds, pooled", *_with_interval(all_of_them)])
    tested = [o.predictions["test"] for o in outcomes.values() if "test" in o.predictions]
    if tested:
        ids, report = ensemble(home, tested, names, top_k)
        single = [classification_metrics(t.logits, t.labels, names, top_k) for t in tested]
        accuracies = [found.accuracy for found in single]
        summary["test"] = {
            "images": len(ids),
            "accuracy_of_folds": accuracies,
            "mean_accuracy_of_folds": sum(accuracies) / len(accuracies),
            "ensemble": report.to_dict(),
        }
        mean = summary["test"]["mean_accuracy_of_folds"]
        rows.append(["test, mean of the folds", f"{mean:.4f}", ""])
        rows.append(["test, ensemble of the folds", *_with_interval(report)])
        texts.append(
            f"Ensemble of {len(tested)} folds on the test images (mean of softmax); the folds alone: "
            f"{' '.join(f'{value:.4f}' for value in accuracies)}\n\n" + report.to_text()
        )
    text = "\n\n".join(texts)
    atomic_write_text(home / "report.txt", text + "\n")
    atomic_write_text(
        home / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    )
    table = text_table(rows, ["images", "accuracy", "95 %"], "Cross-validation")
    sys.stdout.write(f"{table}\nreport: {home / 'report.txt'}\n")


def _made_by(outcomes: "Mapping[int, FoldOutcome]") -> dict[str, Any]:
    """What the first fold's record says of command, code and machine; how long all took."""
    records = [
        json.loads((outcome.directory / "run.json").read_text(encoding="utf-8"))
        for outcome in outcomes.values()
    ]
    first = records[0]
    return {
        "command": first["command"],
        "code": first["code"],
        "versions": first["versions"],
        "hardware": first["hardware"],
        "seed": first["seed"],
        "wall_seconds": round(sum(record.get("wall_seconds", 0.0) for record in records), 1),
    }


def _with_interval(report: ClassificationReport) -> list[str]:
    low, high = report.interval
    return [f"{report.accuracy:.4f}", f"{low:.4f} to {high:.4f}"]


def pool(
    held_out: list[Predictions], names: list[str], top_k: int, data_dir: Path
) -> CrossValidationReport:
    """The folds' validation predictions as one; the interval is over the groups of the split."""
    ids = [name for predictions in held_out for name in predictions.ids]
    parts = [(p.ids, p.logits, p.labels) for p in held_out]
    return pooled_metrics(parts, names, top_k, groups=groups_of(data_dir, ids))


def groups_of(data_dir: Path, ids: list[str]) -> list[str] | None:
    """The group of each image, if the split was made with ``--group-by``; else ``None``."""
    try:
        text = (data_dir / "splits" / "split.json").read_text(encoding="utf-8")
        group_by = json.loads(text)["options"]["group_by"]
    except (OSError, ValueError, KeyError):
        return None  # lists made elsewhere say nothing of groups
    if group_by is None:
        return None
    try:
        return read_groups(group_by, ids)
    except (DataError, InputError) as error:
        logger.warning(f"the interval takes images as independent, without their groups: {error}")
        return None


def ensemble(
    home: Path, tested: list[Predictions], names: list[str], top_k: int
) -> tuple[list[str], ClassificationReport]:
    """The score of the folds' mean probabilities on the shared test images.

    Raises:
        DataError: if the folds were tested on different images.
    """
    first = tested[0]
    if any(other.ids != first.ids for other in tested):
        raise DataError(
            "the folds were tested on different images; was splits/test.txt made anew between them?"
        )
    logits = ensemble_logits([p.logits for p in tested])
    write_predictions(home / "ensemble_test.csv", first.ids, first.labels, logits.softmax(1), names)
    return first.ids, classification_metrics(logits, first.labels, names, top_k)
