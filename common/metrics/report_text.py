"""A classification report as text: single numbers, classes, and what is mistaken for what."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from common.utils.text import printable

if TYPE_CHECKING:
    from common.metrics.classification import ClassificationReport

_NAME_CELLS = 40
_CONFUSIONS = 10


def report_text(report: "ClassificationReport") -> str:
    """Lines without colour or frame, aligned in any fixed-width font."""
    low, high = report.interval
    percent = f"{100 * report.confidence:g} %"
    lines = [
        f"Images             {report.images}",
        f"Accuracy           {report.accuracy:.4f}   ({percent} from {low:.4f} to {high:.4f}: "
        f"{report.interval_method})",
        f"{f'Top-{report.top_k} accuracy':<18} {report.top_k_accuracy:.4f}",
        f"Balanced accuracy  {report.balanced_accuracy:.4f}",
        f"MCC                {report.mcc:.4f}",
        f"Cohen's kappa      {_shown(report.cohen_kappa)}",
        f"AUROC              {_shown(report.auroc)}   (one class against the rest, macro mean)",
        f"Average precision  {_shown(report.average_precision)}   (macro mean)",
        f"Log loss           {report.log_loss:.4f}   (nats)",
        f"Brier score        {report.brier:.4f}   (0 to 2)",
        f"ECE                {report.ece:.4f}   ({report.ece_bins} bins of equal width)",
        *(f"Note: {note}" for note in report.notes),
        "",
        *_classes(report),
        *_confusions(report),
    ]
    return "\n".join(lines) + "\n"


def aligned(rows: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """Columns two spaces apart.

    Args:
        rows: Cells; wide letters (Chinese, Japanese, Korean) count as two.
        texts: So many columns begin at the left; the others, numbers, end at the right.
    """
    widths = [max(cell_len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        room = [width - cell_len(cell) for cell, width in zip(row, widths, strict=True)]
        cells = [
            cell + " " * space if column < texts else " " * space + cell
            for column, (cell, space) in enumerate(zip(row, room, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _classes(report: "ClassificationReport") -> list[str]:
    rows = [["Class", "Images", "Precision", "Recall", "F1", "AUROC", "AP"]]
    for s in report.classes:
        scores = (s.precision, s.recall, s.f1, s.auroc, s.average_precision)
        rows.append([_name(s.name), str(s.support), *map(_shown, scores)])
    for name, averages in (("macro mean", report.macro), ("weighted mean", report.weighted)):
        values = (averages.precision, averages.recall, averages.f1)
        rows.append([name, str(report.images), *map(_shown, values), "", ""])
    lines = aligned(rows)
    return [lines[0], *lines[1:-2], "", *lines[-2:]]


def _confusions(report: "ClassificationReport") -> list[str]:
    found = [
        (count, true, predicted)
        for true, row in enumerate(report.confusion)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    if not found:
        return []
    found.sort(key=lambda item: (-item[0], item[1:]))
    names = report.class_names
    rows = [["True", "Predicted", "Images", "Share of class"]]
    for count, true, predicted in found[:_CONFUSIONS]:
        share = count / report.classes[true].support
        rows.append(
            [_name(names[true]), _name(names[predicted]), str(count), f"{100 * share:.1f} %"]
        )
    return ["", "Most frequent confusions", *aligned(rows, texts=2)]


def _name(name: str) -> str:
    text = printable(name)
    return text if cell_len(text) <= _NAME_CELLS else set_cell_size(text, _NAME_CELLS - 1) + "…"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
