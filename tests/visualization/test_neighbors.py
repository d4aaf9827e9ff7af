"""A sheet shows every neighbour in its place, and right and wrong by colour and sign."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from common.utils.errors import DataError, InputError
from common.visualization import NeighborRow, plot_neighbors
from common.visualization.labels import fitted

_SIZES = [(3, 700, 30), (1, 8, 8), (3, 1, 1), (3, 5, 300)]


def _images() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(256, size, dtype=torch.uint8, generator=generator) for size in _SIZES]


def _texts(figure: Figure) -> list[str]:
    texts = [*figure.texts, *figure.axes[0].texts]
    return [text.get_text() for text in texts if text.get_text()]


def _frames(figure: Figure) -> list[str]:
    return [to_hex(patch.get_edgecolor()) for patch in figure.axes[0].patches]


def test_right_and_wrong_differ_in_frame_and_sign() -> None:
    query, *found = _images()
    row = NeighborRow(query, found, [0.91234, 0.5, -0.00001], [True, False, True], "cup")
    figure = plot_neighbors([row])
    assert _frames(figure) == ["#222222", "#009e73", "#d55e00", "#009e73"]
    texts = _texts(figure)
    for expected in ("1.  ✓  0.912", "2.  ✗  0.500", "3.  ✓  0.000", "cup", "✗ another label"):
        assert expected in texts


def test_a_query_without_truth_has_neutral_frames_and_no_signs() -> None:
    query, *found = _images()
    figure = plot_neighbors([NeighborRow(query, found, torch.tensor([3.0, 2.0, -1234.56]))])
    assert _frames(figure) == ["#222222"] + ["#999999"] * 3
    assert _texts(figure) == ["query", "1.  3.000", "2.  2.000", "3.  -1235"]


def test_images_keep_pixels_and_proportions_within_their_frames() -> None:
    images = _images()
    figure = plot_neighbors([NeighborRow(images[1], images, [0.1] * 4)])
    axis = figure.axes[0]
    _, *shown = axis.get_images()
    _, *frames = axis.patches
    assert (np.asarray(shown[1].get_array()) == images[1][0].numpy()).all()
    for image, drawn, frame in zip(images, shown, frames, strict=True):
        left, right, bottom, top = drawn.get_extent()
        height, width = image.shape[-2:]
        assert (right - left) / (bottom - top) == pytest.approx(width / height)
        box = frame.get_bbox()
        assert box.x0 < left < right < box.x1
        assert min(box.y0, box.y1) < top < bottom < max(box.y0, box.y1)


def test_more_than_ten_neighbours_go_on_below_and_rows_do_not_overlap() -> None:
    image = _images()[1]
    rows = [NeighborRow(image, [image] * count, [0.5] * count) for count in (23, 0, 1)]
    figure = plot_neighbors(rows)
    boxes = [patch.get_bbox() for patch in figure.axes[0].patches]
    assert len(boxes) == 3 + 23 + 1
    assert len({round(box.x0, 3) for box in boxes}) == 1 + 10
    assert len({round(box.y0, 3) for box in boxes}) == 3 + 1 + 1
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
    assert "nothing\nfound" in _texts(figure)


@pytest.mark.parametrize(("count", "title"), [(1, "MW" * 60), (6, None)])
def test_no_text_leaves_the_picture_or_lies_on_another(
    tmp_path: Path, count: int, title: str | None
) -> None:
    names = ["W" * 40, "猫" * 9, "очень длинное название", "$a$ b\nc"]
    row = NeighborRow(_images()[0], _images(), [0.1] * 4, [True] * 4, "M" * 30, names)
    out = tmp_path / "new" / "sheet.png"
    figure = plot_neighbors([row] * count, out, title)
    figure.set_dpi(150)
    figure.draw_without_rendering()
    texts = [text for text in (*figure.texts, *figure.axes[0].texts) if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    for place, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
    assert Image.open(out).size == tuple(int(150 * inches) for inches in figure.get_size_inches())


def test_a_text_loses_its_middle_and_no_more_than_it_must() -> None:
    assert fitted("short", 1.0, 8.0) == "short"
    shown = fitted("abc" * 30, 1.0, 8.0)
    assert shown.startswith("abc")
    assert shown.endswith("abc")
    assert "…" in shown
    assert len(fitted("i" * 90, 1.0, 8.0)) > len(shown) > len(fitted("W" * 90, 1.0, 8.0))
    assert fitted("$5 $x$", 1.0, 8.0) == r"\$5 \$x\$"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.1]}, "query 0 has 1 scores for 2 neighbours"),
        ({"right": [True]}, "query 0 has 1 verdicts for 2 neighbours"),
        ({"names": ["a"]}, "query 0 has 1 names for 2 neighbours"),
        ({"scores": [0.1, float("nan")]}, "neighbour 1 of query 0 is nan"),
        ({"query": torch.zeros(3, 4, 4)}, "image of query 0 has shape .*expected uint8"),
        ({"neighbors": [torch.zeros(4, 4, 3, dtype=torch.uint8)] * 2}, "neighbour 0 .* C 1 or 3"),
    ],
)
def test_what_does_not_fit_is_one_line(change: dict, message: str) -> None:
    image = _images()[1]
    row = {"query": image, "neighbors": [image] * 2, "scores": [0.1, 0.2]} | change
    with pytest.raises(DataError, match=message) as caught:
        plot_neighbors([NeighborRow(**row)])
    assert "\n" not in str(caught.value)


def test_no_rows_too_many_and_a_bad_place_are_refused() -> None:
    row = NeighborRow(_images()[1], [], [])
    with pytest.raises(DataError, match="no queries"):
        plot_neighbors([])
    with pytest.raises(DataError, match=r"1000 queries make a picture .* at most 150"):
        plot_neighbors([row] * 1000)
    with pytest.raises(InputError, match="no name of a picture"):
        plot_neighbors([row], "x.nope")
