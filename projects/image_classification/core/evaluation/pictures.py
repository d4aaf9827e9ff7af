"""The pictures of an evaluation: matrix, curves, reliability, classes, mistakes, heat maps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from loguru import logger
from torch import Tensor, nn

from common.metrics.calibration import TemperatureScaling, reliability_bins
from common.metrics.classification import ClassificationReport
from common.models.grad_cam import grad_cam
from common.utils.errors import ConfigError, DataError
from common.visualization.class_scores import plot_class_scores
from common.visualization.confusion import plot_confusion_matrix
from common.visualization.grad_cam import plot_grad_cam
from common.visualization.image_sheet import mistake_captions, plot_image_sheet
from common.visualization.reliability import plot_reliability
from common.visualization.roc import plot_precision_recall_curves, plot_roc_curves

_RIGHT, _WRONG = "#009E73", "#D55E00"  # of the house style's colours
_BATCH = 8  # images of a Grad-CAM at once: gradients of all their maps are held

Images = Callable[[int], Tensor]


@dataclass(frozen=True)
class _Evaluated:
    """What the sheets of images show.

    Attributes:
        names: Of the classes.
        p: Probabilities ``(N, K)``.
        labels: True classes.
        predicted: The first of the highest logits, as the report has it.
    """

    names: tuple[str, ...]
    p: Tensor
    labels: Tensor
    predicted: Tensor

    def captions(self, places: list[int]) -> list[tuple[str, ...]]:
        """Three lines under a mistake, two under what is right."""
        found: list[tuple[str, ...]] = []
        for place in places:
            true, guess = int(self.labels[place]), int(self.predicted[place])
            confidence, of_true = float(self.p[place, guess]), float(self.p[place, true])
            lines = mistake_captions(self.names[true], self.names[guess], confidence, of_true)
            right = (f"is {self.names[true]}", lines[2].split(",")[0])
            found.append(right if true == guess else lines)
        return found


def draw_evaluation(
    plots: Path,
    report: ClassificationReport,
    logits: Tensor,
    labels: Tensor,
    *,
    images: Images | None,
    model: nn.Module | None,
    to_input: Callable[[Tensor], Tensor] | None,
    scaling: TemperatureScaling | None,
    split: str,
    bins: int,
    num_mistakes: int,
    num_grad_cam: int,
) -> None:
    """Draw what can be drawn; see ``write_evaluation`` for the arguments.

    Args:
        plots: The folder of the pictures.
        report: Of the logits.
        logits: float64 ``(N, K)``.
        labels: ``(N,)``.
    """
    names, k = report.class_names, len(report.classes)
    of_images = f"on {report.images:,} {split} images"
    p = logits.softmax(dim=1)
    with _or_without("confusion matrix"):
        title = f"Confusion matrix {of_images}, accuracy {100 * report.accuracy:.1f} %"
        plot_confusion_matrix(report.confusion, names, plots / "confusion_matrix.png", title)
    curves = p.numpy(), labels.numpy(), names
    with _or_without("ROC curves"):
        plot_roc_curves(*curves, plots / "roc.png", f"ROC curves {of_images}")
    with _or_without("precision-recall curves"):
        title = f"Precision and recall {of_images}"
        plot_precision_recall_curves(*curves, plots / "precision_recall.png", title)
    with _or_without("reliability diagram"):
        panels = {"as trained": reliability_bins(logits, labels, bins)}
        if scaling is not None:
            name = f"temperature {scaling.temperature:.3g}"
            panels[name] = reliability_bins(scaling.apply(logits), labels, bins)
        plot_reliability(panels, plots / "reliability.png", f"Reliability {of_images}")
    with _or_without("scores of classes"):
        plot_class_scores(
            [scores.f1 for scores in report.classes],
            [scores.support for scores in report.classes],
            names,
            plots / "class_f1.png",
            f"F1 of {k} classes {of_images}",
            mean=report.macro.f1,
        )
    if images is None:
        return
    predicted = _predicted(logits)
    evaluated = _Evaluated(names, p, labels, predicted)
    with _or_without("sheet of samples"):
        title = f"Some of {report.images:,} {split} images"
        found = samples(labels, num_mistakes)
        _draw_sheet(plots / "samples.png", evaluated, images, found, title)
    with _or_without("sheet of mistakes"):
        found = worst_mistakes(logits, labels, num_mistakes)
        wrong = int((predicted != labels).sum())
        title = f"The {len(found)} worst of {wrong:,} mistakes {of_images}"
        _draw_sheet(plots / "worst_mistakes.png", evaluated, images, found, title)
    if model is not None and to_input is not None and num_grad_cam:
        with _or_without("Grad-CAM"):
            half = worst_mistakes(logits, labels, num_grad_cam // 2)
            right = (predicted == labels).nonzero().flatten()
            more = right[samples(labels[right], num_grad_cam - len(half))].tolist()
            places = [*half, *more]
            _draw_grad_cam(plots / "grad_cam.png", evaluated, images, places, model, to_input)


def worst_mistakes(logits: Tensor, labels: Tensor, count: int) -> list[int]:
    """Places of the wrongly classified images with the highest losses, the worst first.

    Args:
        logits: ``(N, K)``.
        labels: ``(N,)``.
        count: At most so many.
    """
    loss = -logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
    wrong = (_predicted(logits) != labels).nonzero().flatten()
    order = loss[wrong].sort(descending=True, stable=True).indices
    return wrong[order[:count]].tolist()


def samples(labels: Tensor, count: int) -> list[int]:
    """Places of images of as many classes as there is room for, in the order of the classes.

    Args:
        labels: ``(N,)``.
        count: At most so many.
    """
    turns: dict[int, int] = {}
    places = []
    for place, label in enumerate(labels.tolist()):
        turn = turns.get(label, 0)
        turns[label] = turn + 1
        places.append((turn, label, place))
    chosen = sorted(places)[:count]  # the first of each class, then the second ...
    return [place for _, _, place in sorted(chosen, key=lambda item: (item[1], item[2]))]


def _predicted(logits: Tensor) -> Tensor:
    return logits.sort(dim=1, descending=True, stable=True).indices[:, 0]


def _draw_sheet(
    path: Path, evaluated: _Evaluated, images: Images, places: list[int], title: str
) -> None:
    if not places:
        path.unlink(missing_ok=True)  # of an earlier evaluation in the same folder
        return
    captions = evaluated.captions(places)
    colours = [_RIGHT if len(caption) < 3 else _WRONG for caption in captions]
    plot_image_sheet([images(place) for place in places], captions, path, title, colours=colours)


def _draw_grad_cam(
    path: Path,
    evaluated: _Evaluated,
    images: Images,
    places: list[int],
    model: nn.Module,
    to_input: Callable[[Tensor], Tensor],
) -> None:
    pixels = torch.stack([images(place) for place in places])
    maps = []
    for part, at in zip(pixels.split(_BATCH), torch.tensor(places).split(_BATCH), strict=True):
        inputs = to_input(part)
        maps.append(grad_cam(model, inputs, classes=evaluated.predicted[at].to(inputs.device)))
    title = "Grad-CAM: what speaks for the predicted class"
    plot_grad_cam(pixels, torch.cat(maps).cpu(), evaluated.captions(places), path, title)


@contextmanager
def _or_without(what: str) -> Iterator[None]:
    """A picture that cannot be drawn is told, and the others are drawn."""
    try:
        yield
    except (ConfigError, DataError) as error:
        logger.warning(f"no {what}: {' '.join(str(error).split())}")
