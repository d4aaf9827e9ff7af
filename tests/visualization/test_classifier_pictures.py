"""Pictures of a classifier: every one is drawn, at few and many classes, and shows its numbers."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics as sk

from common.metrics import reliability_bins
from common.utils.errors import DataError, InputError
from common.visualization import (
    plot_class_scores,
    plot_confusion_matrix,
    plot_grad_cam,
    plot_image_sheet,
    plot_precision_recall_curves,
    plot_reliability,
    plot_roc_curves,
)
from common.visualization.image_sheet import mistake_captions
from common.visualization.labels import drawable, drawable_classes, font_families

_NAMES = ["猫", "собака", "$x$", "a/very/long/class name that goes on", "new\nline"]


def _data(classes: int, absent: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (20 * classes,), generator=generator)
    if absent is not None:
        labels[labels == absent] = 0
    logits = torch.randn(len(labels), classes, generator=generator)
    logits[torch.arange(len(labels)), labels] += 2.0
    return logits.softmax(1).numpy(), labels.numpy()


def _check(path: Path, least: int = 150) -> np.ndarray:
    """The pixels of a picture that is there, large enough, and not blank."""
    pixels = np.asarray(Image.open(path).convert("L"))
    assert min(pixels.shape) >= least
    assert pixels.std() > 3.0
    return pixels


def _names(count: int) -> list[str]:
    return [f"{_NAMES[k % 5]} {k}" for k in range(count)]


@pytest.mark.parametrize("classes", [2, 10, 200])
def test_a_confusion_matrix_is_drawn_without_a_warning(tmp_path: Path, classes: int) -> None:
    counts = np.random.default_rng(0).poisson(0.4, (classes, classes)) + 20 * np.eye(
        classes, dtype=int
    )
    counts[1] = 0  # a class without images
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot_confusion_matrix(counts, _names(classes), tmp_path / "c.png", "Confusion")
    pixels = _check(tmp_path / "c.png")
    assert max(pixels.shape) < 5000
    shares = figure.axes[0].get_images()[0].get_array()
    assert float(shares[0, 0]) == pytest.approx(counts[0, 0] / counts[0].sum())
    assert np.isnan(np.asarray(shares.data)[1]).all()
    assert bool(figure.axes[0].texts) == (classes <= 25)


def test_the_cells_say_their_counts() -> None:
    figure = plot_confusion_matrix([[12345, 1], [0, 7]], ["a", "b"])
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["1", "12k", "7"]


def test_the_area_of_each_roc_curve_is_scikit_learns() -> None:
    p, y = _data(3)
    figure = plot_roc_curves(p, y, ["a", "b", "c"])
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    expected = [sk.roc_auc_score(y == k, p[:, k]) for k in range(3)]
    assert texts == [f"area {v:.3f}  {n}" for v, n in zip(expected, "abc", strict=True)]


def test_the_steps_of_a_precision_recall_curve_hold_its_average_precision() -> None:
    p, y = _data(3)
    figure = plot_precision_recall_curves(p, y, ["a", "b", "c"])
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    for k, line in enumerate(figure.axes[0].get_lines()):
        expected = sk.average_precision_score(y == k, p[:, k])
        recall, precision = line.get_data()
        assert np.sum(np.diff(recall) * precision[1:]) == pytest.approx(expected)
        assert (recall[0], recall[-1]) == (0.0, 1.0)
        assert texts[k].startswith(f"AP {expected:.3f}")


@pytest.mark.parametrize("plot", [plot_roc_curves, plot_precision_recall_curves])
@pytest.mark.parametrize("classes", [2, 10, 30])
def test_curves_of_many_classes_are_their_means(tmp_path: Path, plot, classes: int) -> None:
    p, y = _data(classes, absent=1 if classes > 2 else None)
    figure = plot(p, y, _names(classes), tmp_path / "x.png", title="Curves")
    _check(tmp_path / "x.png")
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    drawn = classes - (classes > 2)
    if classes <= 10:
        assert len(legend) == drawn
        return
    score = sk.roc_auc_score if plot is plot_roc_curves else sk.average_precision_score
    macro = np.mean([score(y == k, p[:, k]) for k in range(classes) if (y == k).any()])
    micro = score((y[:, None] == np.arange(classes)).ravel(), p.ravel())
    assert f"{macro:.3f}  macro" in legend[0]
    assert f"{micro:.3f}  micro" in legend[1]
    assert legend[2] == f"each of {drawn} classes"


def test_the_mean_curve_has_the_mean_area() -> None:
    p, y = _data(12)
    for plot in (plot_roc_curves, plot_precision_recall_curves):
        line = next(
            line for line in plot(p, y, _names(12)).axes[0].get_lines()
            if "macro" in str(line.get_label())
        )  # fmt: skip
        area = np.trapezoid(line.get_ydata(), line.get_xdata())
        assert f"{area:.2f}"[:3] == str(line.get_label()).split()[1][:3]


def test_images_of_one_class_have_no_curves() -> None:
    with pytest.raises(DataError, match="of one class"):
        plot_roc_curves(np.ones((3, 2)) / 2, np.zeros(3, int), ["a", "b"])


def test_a_reliability_diagram_has_a_bar_for_each_bin_with_images(tmp_path: Path) -> None:
    p, y = _data(4)
    bins = reliability_bins(torch.as_tensor(p).log(), torch.as_tensor(y))
    figure = plot_reliability({"before": bins, "after": bins}, tmp_path / "r.png", "Reliability")
    _check(tmp_path / "r.png")
    histogram = figure.axes[2].patches
    heights = [bar.get_height() for bar in histogram]
    assert heights == pytest.approx([n / len(y) for n in bins.counts if n])
    assert len(plot_reliability(bins).axes) == 2


@pytest.mark.parametrize("classes", [2, 81])
def test_class_scores_come_from_worst_to_best(tmp_path: Path, classes: int) -> None:
    scores: list[float | None] = [k / classes for k in reversed(range(classes))]
    scores[0] = None
    support = [0, *range(1, classes)]
    figure = plot_class_scores(scores, support, _names(classes), tmp_path / "s.png", mean=0.5)
    _check(tmp_path / "s.png", 100)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert len(widths) == min(classes, 60)
    assert widths[0] == 0.0
    if classes > 60:
        assert widths == sorted(widths)
        assert "60 lowest of 81" in figure.axes[0].get_xlabel()


def _images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(3, 8, 8), (1, 40, 20), (3, 700, 30), (3, 1, 1)]
    return [torch.randint(256, size, dtype=torch.uint8, generator=generator) for size in sizes]


def test_a_sheet_shows_images_of_all_sizes_in_their_proportions(tmp_path: Path) -> None:
    captions = [mistake_captions(_NAMES[k], _NAMES[k + 1], 0.99999, 1e-9) for k in range(4)]
    figure = plot_image_sheet(_images(), captions, tmp_path / "s.png", "Worst", columns=3)
    _check(tmp_path / "s.png")
    assert len(figure.axes) == 4
    assert [axis.get_images()[0].get_array().shape[:2] for axis in figure.axes[:2]] == [
        (8, 8),
        (40, 20),
    ]
    texts = [text.get_text() for text in figure.texts]
    assert "p >99.9 %, true <0.1 %" in texts
    assert "taken for собака" in texts


def test_heat_maps_lie_beside_their_images(tmp_path: Path) -> None:
    images = torch.full((2, 1, 128, 90), 100, dtype=torch.uint8)
    maps = torch.zeros(2, 128, 90)
    maps[1, 4, 4] = 1.0
    figure = plot_grad_cam(images, maps, [["a"], ["b"]], tmp_path / "g.png", title="Grad-CAM")
    _check(tmp_path / "g.png")
    first, second = (figure.axes[k].get_images()[0].get_array() for k in (1, 3))
    assert (np.asarray(first) == 100).all()
    changed = np.argwhere((np.asarray(second) != 100).any(-1))
    assert changed.tolist() == [[4, 4]]


def test_a_map_stays_smooth_over_a_small_image() -> None:
    maps = torch.zeros(1, 8, 8)
    maps[0, 4, 4] = 1.0
    figure = plot_grad_cam(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), maps, [["a"]])
    overlaid = np.asarray(figure.axes[1].get_images()[0].get_array())
    assert overlaid.shape == (128, 128, 3)
    assert len(np.unique(overlaid[72])) > 20


@pytest.mark.parametrize(
    ("images", "captions", "message"),
    [
        ([], [], "0 captions for 0 images"),
        ([torch.zeros(3, 4, 4, dtype=torch.uint8)], [], "0 captions for 1 images"),
        ([torch.zeros(3, 4, 4)], [["a"]], "expected uint8"),
        ([torch.zeros(4, 4, 3, dtype=torch.uint8)], [["a"]], "C 1 or 3"),
    ],
)
def test_what_is_no_sheet_is_refused(images, captions, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plot_image_sheet(images, captions)


def test_shapes_that_do_not_agree_are_refused() -> None:
    with pytest.raises(DataError, match="for 3 class names"):
        plot_confusion_matrix(np.eye(2), ["a", "b", "c"])
    with pytest.raises(DataError, match="2 names"):
        plot_roc_curves(np.ones((3, 3)), np.zeros(3), ["a", "b"])
    with pytest.raises(DataError, match="1 scores and 2 supports"):
        plot_class_scores([0.5], [1, 2], ["a"])
    with pytest.raises(DataError, match="expected"):
        plot_grad_cam(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 5, 4), [["a"]])


def test_a_place_for_no_picture_is_refused_before_drawing() -> None:
    p, y = _data(2)
    for plot in (plot_roc_curves, plot_precision_recall_curves):
        with pytest.raises(InputError, match="no name of a picture"):
            plot(p, y, ["a", "b"], "curves.nope")


def test_letters_without_a_font_are_escaped_and_keep_their_class_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("common.visualization.labels._other_fonts", lambda: ())
    assert drawable(["猫 cat", "собака", "$1"]) == [r"\u732b cat", "собака", r"\$1"]
    assert drawable_classes(["猫", "dog"]) == [r"0: \u732b", "dog"]
    long = [f"{'x' * 40}{k}{'y' * 40}" for k in range(2)]
    first, second = drawable_classes(long, 12)
    assert first == "0: xxxxxx…yyyyy"
    assert first != second


def test_a_font_of_the_machine_is_taken_for_letters_the_base_font_lacks() -> None:
    """Matplotlib brings STIX, which has mathematical letters that DejaVu Sans lacks."""
    letter = "\U0001d4d0"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        families = font_families([letter])
        figure: Figure = plot_confusion_matrix(np.eye(2), [letter, "b"])
        figure.canvas.draw()
    assert len(families) > 1
    assert drawable([letter]) == [letter]
    assert font_families(["plain"]) == ["DejaVu Sans"]
