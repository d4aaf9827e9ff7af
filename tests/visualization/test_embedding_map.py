"""A map of embeddings is the same every time, keeps groups together and refuses what has no map."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.spatial.distance import pdist
from sklearn.neighbors import KNeighborsClassifier

from common.utils.errors import DataError, InputError
from common.visualization import plot_embedding_map


def _groups(groups: int = 3, of: int = 15, width: int = 8) -> tuple[torch.Tensor, list[str]]:
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.randn(groups, width, generator=generator)
    points = centres.repeat_interleave(of, 0) + torch.randn(groups * of, width, generator=generator)
    return points, [f"group {k}" for k in range(groups) for _ in range(of)]


def _points(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(drawn.get_offsets()) for drawn in figure.axes[0].collections]


def _legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_groups_stay_together_and_the_map_is_the_same_again(tmp_path: Path) -> None:
    x, labels = _groups()
    first, second = (plot_embedding_map(x, labels, tmp_path / "m.png", method="tsne") for _ in "ab")
    for one, other in zip(_points(first), _points(second), strict=True):
        assert np.array_equal(one, other)
    places = np.concatenate(_points(first))
    group = np.repeat([0, 1, 2], 15)
    found = KNeighborsClassifier(3).fit(places, group)
    assert found.score(places, group) == 1.0
    assert first.axes[0].get_title() == "t-SNE of all 45 embeddings, seed 0"
    assert _legend(first) == ["group 0 (15)", "group 1 (15)", "group 2 (15)"]
    assert (tmp_path / "m.png").stat().st_size > 5_000


def test_principal_components_keep_the_distances_of_a_plane() -> None:
    plane = torch.randn(30, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    turned = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q[:2]
    (drawn,) = _points(plot_embedding_map(plane @ turned, ["a"] * 30, method="pca"))
    expected = pdist(plane.numpy())
    ratio = pdist(drawn) / expected
    assert ratio.max() / ratio.min() == pytest.approx(1.0, abs=1e-4)
    assert (drawn > 0).all()
    assert (drawn < 1).all()


def test_twelve_labels_have_marks_of_their_own_and_the_rest_is_grey() -> None:
    x, labels = _groups(15, 4)
    labels += ["group 14"] * 2
    x = torch.cat([x, x[-2:] + 0.1])
    figure = plot_embedding_map(x, labels, method="pca")
    names = _legend(figure)
    assert names[0] == "group 14 (6)"  # the most frequent; of equals the first by name, 2 before 10
    assert names[1:12] == [f"group {k} (4)" for k in range(11)]
    assert names[12] == "3 other labels (12)"
    drawn = figure.axes[0].collections
    marks = {(tuple(d.get_facecolor()[0]), len(d.get_paths()[0].vertices)) for d in drawn[:12]}
    assert len(marks) == 12
    assert len(drawn[12].get_offsets()) == 12


def test_many_embeddings_are_sampled_by_seed_and_the_title_says_so() -> None:
    x, labels = _groups(3, 1000)
    figures = [
        plot_embedding_map(x, labels, method="pca", most=100, seed=seed) for seed in (0, 0, 1)
    ]
    first, again, other = (np.concatenate(_points(figure)) for figure in figures)
    assert len(first) == 100
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.allclose(first, other)
    expected = "PCA of 100 embeddings drawn at random from 3,000, seed 0"
    assert figures[0].axes[0].get_title() == expected


def test_images_stand_at_their_points_and_never_on_each_other() -> None:
    x, labels = _groups()
    images = [torch.full((1, 6, 4 + k % 5), k, dtype=torch.uint8) for k in range(len(x))]
    figure = plot_embedding_map(x, labels, method="pca", images=images)
    points = np.concatenate(_points(plot_embedding_map(x, labels, method="pca")))
    axis = figure.axes[0]
    boxes = [frame.get_bbox() for frame in axis.patches]
    assert 3 <= len(boxes) < len(x)
    for place, (box, image) in enumerate(zip(boxes, axis.get_images(), strict=True)):
        index = int(np.asarray(image.get_array()).flat[0])
        assert (box.x0 + box.x1) / 2 == pytest.approx(points[index, 0])
        assert (box.y0 + box.y1) / 2 == pytest.approx(points[index, 1])
        assert not any(box.overlaps(further) for further in boxes[place + 1 :])
        assert 0 < box.x0 < box.x1 < 1
    assert sum(map(len, _points(figure))) == len(x) - len(boxes)


@pytest.mark.parametrize("dpi", [100, 150])
def test_long_names_and_titles_stay_inside_the_picture(dpi: int) -> None:
    x, _ = _groups(4, 3)
    names = ["W" * 60, "猫" * 30, "$x$ " * 12, "очень длинное название товара 500 г"]
    labels = [name for name in names for _ in range(3)]
    figure = plot_embedding_map(x, labels, method="pca", title="MW" * 70)
    figure.set_dpi(dpi)
    figure.draw_without_rendering()
    axis = figure.axes[0]
    title = figure._suptitle
    assert title is not None
    boxes = [part.get_window_extent() for part in (axis, axis.get_legend(), axis.title, title)]
    for place, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])


@pytest.mark.parametrize(("count", "width"), [(3, 5), (4, 1), (7, 2)])
def test_few_points_and_narrow_embeddings_have_a_map(count: int, width: int) -> None:
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    figure = plot_embedding_map(x.requires_grad_(), torch.arange(count), method="tsne")
    assert np.isfinite(np.concatenate(_points(figure))).all()


@pytest.mark.slow
def test_umap_is_taken_where_it_is_installed_and_is_the_same_again() -> None:
    pytest.importorskip("umap")
    for x, labels in (_groups(), _groups(1, 5)):
        first, second = (plot_embedding_map(x, labels) for _ in "ab")
        assert first.axes[0].get_title().startswith("UMAP of all")
        for one, other in zip(_points(first), _points(second), strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (torch.zeros(3), ["a"] * 3, r"shape \(3,\); expected \(N, D\)"),
        (torch.zeros(0, 3), [], r"shape \(0, 3\)"),
        (torch.rand(4, 3), ["a"] * 3, "3 labels for 4 embeddings"),
        (torch.tensor([[1.0], [float("nan")], [2.0]]), ["a"] * 3, r"1 of 3 .* \(first: row 1\)"),
        (torch.rand(2, 3), ["a"] * 2, "2 embeddings; t-SNE needs at least 3"),
        (torch.ones(5, 3), ["a"] * 5, "all 5 embeddings are the same"),
    ],
)
def test_what_has_no_map_is_one_line(x: torch.Tensor, labels: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        plot_embedding_map(x, labels, method="tsne")
    assert "\n" not in str(caught.value)


def test_images_methods_and_places_that_do_not_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, labels = _groups()
    with pytest.raises(DataError, match="45 labels and 1 images for 45"):
        plot_embedding_map(x, labels, images=[torch.zeros(1, 2, 2, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="did you mean 'tsne'"):
        plot_embedding_map(x, labels, method="t-sne")
    monkeypatch.setattr("common.visualization.embedding_map.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="umap-learn is not installed"):
        plot_embedding_map(x, labels, method="umap")
    with pytest.raises(InputError, match="no name of a picture"):
        plot_embedding_map(x, labels, "x.nope")
