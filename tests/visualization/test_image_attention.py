"""Attention lies over its image: where it is high there is colour, and its values are said."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.utils.errors import DataError
from common.visualization import plot_image_attention


def _shown(figure) -> list[np.ndarray]:
    return [np.asarray(axis.get_images()[0].get_array()) for axis in figure.axes]


def _texts(figure) -> list[str]:
    return [text.get_text() for text in figure.texts if text.get_text()]


def test_colour_is_where_the_attention_is(tmp_path: Path) -> None:
    image = torch.full((1, 140, 210), 100, dtype=torch.uint8)
    attention = torch.full((7, 7), 0.5)
    attention[1, 5] = 3.0
    figure = plot_image_attention([image], [attention], [["a"]], tmp_path / "a.png", "Local")
    plain, overlaid = _shown(figure)
    assert (plain == 100).all()
    changed = np.argwhere((overlaid != 100).any(-1))
    # Cell (1, 5) of 7 x 7 over 140 x 210 has its middle at (30, 165); its slope ends a cell away.
    assert changed.mean(0) == pytest.approx([29.5, 164.5])
    assert (changed.min(0) >= [10, 135]).all()
    assert (changed.max(0) <= [49, 194]).all()
    assert _texts(figure)[:3] == ["a", "attention", "0.5 to 3"]
    assert (tmp_path / "a.png").stat().st_size > 1_000


def test_even_attention_leaves_the_image_and_says_its_value() -> None:
    image = torch.randint(256, (3, 140, 130), dtype=torch.uint8)
    figure = plot_image_attention([image], torch.full((1, 4, 4), 0.69), [["a"]])
    plain, overlaid = _shown(figure)
    assert np.array_equal(plain, overlaid)
    assert "0.69 everywhere" in _texts(figure)


def test_images_and_maps_of_any_sizes_stay_smooth() -> None:
    images = [torch.zeros(size, dtype=torch.uint8) for size in [(3, 8, 8), (1, 2000, 30)]]
    maps = [torch.eye(3).requires_grad_(), torch.rand(40, 2)]
    shown = _shown(plot_image_attention(images, maps, [["a"], []]))
    assert shown[1].shape == (128, 128, 3)
    assert len(np.unique(shown[1][64])) > 20
    assert shown[2].shape[:2] == shown[3].shape[:2] == (334, 5)


@pytest.mark.parametrize(
    ("images", "maps", "message"),
    [
        ([], [], "0 images, 0 attention maps and 1 captions"),
        ([torch.zeros(3, 4, 4, dtype=torch.uint8)], torch.zeros(2, 2, 2), "1 images, 2 attention"),
        ([torch.zeros(3, 4, 4, dtype=torch.uint8)], torch.zeros(1, 2), r"shape \(2,\); expected"),
        ([torch.zeros(3, 4, 4, dtype=torch.uint8)], torch.full((1, 2, 2), torch.nan), "all finite"),
        ([torch.zeros(3, 4, 4)], torch.zeros(1, 2, 2), "image 0 .* expected uint8"),
    ],
)
def test_what_does_not_fit_is_refused(images, maps, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plot_image_attention(images, maps, [["a"]])
