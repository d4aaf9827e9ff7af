"""A grid shows every image in its place and refuses what is no image."""

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from common.utils.errors import DataError
from common.visualization import plot_image_grid


def _rows(figure: Figure) -> list[torch.Tensor]:
    return [torch.as_tensor(axis.get_images()[0].get_array().data) for axis in figure.axes]


def test_images_lie_row_by_row_with_white_between_them(tmp_path: Path) -> None:
    images = torch.zeros(5, 1, 14, 14)
    images[3] = 0.5
    figure = plot_image_grid(images, tmp_path / "new" / "grid.png", columns=3)
    first, second = _rows(figure)
    assert first.shape == second.shape == (16, 48)
    assert torch.equal(first[1:15, 1:15], images[0, 0])
    assert torch.equal(second[1:15, 1:15], images[3, 0])
    assert second[:, 32:].eq(1.0).all()  # the sixth place is empty
    assert first[:, 15:17].eq(1.0).all()
    assert (tmp_path / "new" / "grid.png").stat().st_size > 500


def test_bytes_and_floats_of_one_image_look_the_same() -> None:
    images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
    (of_bytes,), (of_floats,) = _rows(plot_image_grid(images)), _rows(plot_image_grid(images / 255))
    assert of_bytes.shape[-1] == 3
    torch.testing.assert_close(of_bytes, of_floats)


def test_labels_stand_above_their_images() -> None:
    labels = ["a", "$b", "c"]
    figure = plot_image_grid(torch.zeros(3, 1, 8, 8), columns=2, labels=labels, title="x")
    texts = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert texts == [["a", r"\$b"], ["c"]]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(8, 8), r"shape \(8, 8\), expected \(N, C, H, W\)"),
        (torch.zeros(1, 2, 8, 8), "C 1 or 3"),
        (torch.zeros(0, 1, 8, 8), "N >= 1"),
        (torch.full((1, 1, 8, 8), -1.0), "from -1 to -1"),
        (torch.full((1, 1, 8, 8), float("nan")), "rescale"),
    ],
)
def test_what_is_no_image_is_refused(images: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plot_image_grid(images)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="1 labels for 2 images"):
        plot_image_grid(torch.zeros(2, 1, 8, 8), labels=["a"])
