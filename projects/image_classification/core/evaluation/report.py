"""What is left of an evaluation: text, JSON, predictions and pictures, from logits made once.

report = classification_metrics(logits, labels, class_names)
write_evaluation(run / "test", report, logits, labels, ids, class_names, images=pixels_of)
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.metrics.calibration import (
    CalibrationReport,
    TemperatureScaling,
    calibration_report,
    reliability_bins,
)
from common.metrics.classification import ClassificationReport
from common.metrics.predictions import check_predictions, write_predictions
from common.utils.errors import DataError
from common.utils.files import atomic_write_text, explained_write
from projects.image_classification.core.evaluation.model_card import CardFacts, write_model_card
from projects.image_classification.core.evaluation.pictures import draw_evaluation

__all__ = ["CardFacts", "write_evaluation", "write_model_card"]


def write_evaluation(
    directory: Path,
    report: ClassificationReport,
    logits: Tensor,
    labels: Tensor,
    ids: Sequence[str],
    class_names: Sequence[str],
    *,
    images: Callable[[int], Tensor] | None = None,
    model: nn.Module | None = None,
    to_input: Callable[[Tensor], Tensor] | None = None,
    scaling: TemperatureScaling | None = None,
    split: str = "test",
    bins: int = 15,
    num_mistakes: int = 24,
    num_grad_cam: int = 8,
    draws: bool = True,
) -> dict[str, float]:
    """Write ``report.txt report.json predictions.csv plots/*.png`` and return the numbers.

    Metrics and predictions are of the logits as they are; what ``scaling`` changes stands in a
    part of its own. A picture that cannot be drawn (an image that is gone, curves of one class) is
    left out with a warning: the numbers do not depend on it.

    Args:
        directory: Where; made if it is missing.
        report: Of these logits, from ``classification_metrics``.
        logits: ``(N, K)``, of the network.
        labels: ``(N,)``, true classes.
        ids: What each image is called, e.g. its path in the index file.
        class_names: K names in the order of the logits.
        images: From an image's place to its pixels as the network sees them, uint8 ``(C, H, W)``;
            without it there are no sheets of images.
        model: From floats to logits; with ``images`` and ``to_input`` there is a Grad-CAM sheet.
        to_input: From uint8 ``(B, C, H, W)`` to what ``model`` takes, on its device.
        scaling: Fitted on other images than these.
        split: What the images are, for headings and the names of the numbers.
        bins: Of reliability diagram and expected calibration error before and after scaling.
        num_mistakes: Images on the sheets of mistakes and samples; 0 for no such sheets.
        num_grad_cam: Images with heat maps; 0 for none.
        draws: Whether to draw at all.

    Returns:
        ``test/accuracy`` and the like, for a logger; with scaling also ``test/ece_calibrated``,
        ``test/log_loss_calibrated``, and ``temperature``.

    Raises:
        DataError: if the parts do not belong together.
        FaultError: if the directory cannot be written.
    """
    logits, labels = check_predictions(logits, labels, class_names)
    if report.images != len(logits) or report.class_names != tuple(class_names):
        raise DataError(
            f"the report is of {report.images} images of {len(report.classes)} classes, the logits "
            f"of {len(logits)} images of {len(class_names)} classes"
        )
    calibration = None if scaling is None else calibration_report(scaling, logits, labels, bins)
    with explained_write(directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_predictions(
        directory / "predictions.csv", ids, labels, logits.softmax(dim=1), class_names
    )
    atomic_write_text(directory / "report.txt", evaluation_text(report, calibration, split))
    record = _record(report, calibration, logits, labels, split, bins)
    text = json.dumps(record, indent=2, ensure_ascii=True, allow_nan=False)
    atomic_write_text(directory / "report.json", text + "\n")
    if draws:
        draw_evaluation(
            directory / "plots",
            report,
            logits,
            labels,
            images=images,
            model=model,
            to_input=to_input,
            scaling=scaling,
            split=split,
            bins=bins,
            num_mistakes=num_mistakes,
            num_grad_cam=num_grad_cam,
        )
    metrics = {f"{split}/{name}": value for name, value in report.scalars().items()}
    if calibration is not None:
        metrics[f"{split}/ece_calibrated"] = calibration.ece_after
        metrics[f"{split}/log_loss_calibrated"] = calibration.nll_after
        metrics["temperature"] = calibration.scaling.temperature
    return metrics


def evaluation_text(
    report: ClassificationReport, calibration: CalibrationReport | None, split: str
) -> str:
    """The report as text, with a line about temperature scaling if there was any."""
    head = f"Evaluation on {report.images:,} {split} images\n\n"
    if calibration is None:
        return head + report.to_text()
    scaling = calibration.scaling
    lines = [
        f"Temperature scaling: {scaling.temperature:.4f}, fitted on {scaling.images:,} other images",
        f"  ECE       {calibration.ece_before:.4f} -> {calibration.ece_after:.4f}"
        f"   ({calibration.bins} bins of equal width)",
        f"  log loss  {calibration.nll_before:.4f} -> {calibration.nll_after:.4f}",
    ]
    if scaling.note:
        lines.append(f"  Note: {scaling.note}")
    return head + report.to_text() + "\n" + "\n".join(lines) + "\n"


def _record(
    report: ClassificationReport,
    calibration: CalibrationReport | None,
    logits: Tensor,
    labels: Tensor,
    split: str,
    bins: int,
) -> dict[str, Any]:
    return {
        "split": split,
        "metrics": report.to_dict(),
        "calibration": None if calibration is None else calibration.to_dict(),
        "reliability": reliability_bins(logits, labels, bins).to_dict(),
    }
