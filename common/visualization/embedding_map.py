"""Embeddings as points of a plane, their most frequent labels in colour, images where there is room.

Neighbours on the map are neighbours in the space of the embeddings; distances between groups, and the
axes, mean nothing with t-SNE (van der Maaten & Hinton 2008, JMLR 9) and UMAP (McInnes et al. 2018,
1802.03426). Embeddings that are compared by cosine are normalised before they come here.
"""

from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.utils.errors import DataError
from common.utils.text import did_you_mean, natural_order
from common.visualization.labels import add_title, fitted, font_families
from common.visualization.style import check_picture_path, house_style, new_figure, save_figure
from common.visualization.tiles import Image, resampling, tile_pixels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

METHODS = ("auto", "tsne", "umap", "pca")
_NAMES = {"tsne": "t-SNE", "umap": "UMAP", "pca": "PCA"}
_LEAST = {"tsne": 3, "umap": 5, "pca": 2}  # points a method works with
_SPECTRAL = 20  # points from which UMAP starts from eigenvectors
_COLOURS = 6  # of the palette, without its grey
_MARKERS = ("o", "s")
_NAME = 2.2  # inches of a label in the legend
_POINTS = 8.0  # of its letters
_MAP = 6.0  # inches of its side
_MARGIN, _SUBTITLE = 0.15, 0.25
_LEGEND_SIZE = 40.0  # of a mark, in square points
_THUMBNAIL = 0.065  # of the map's side
_GREY = "#bdbdbd"


def plot_embedding_map(
    embeddings: "Tensor | ArrayLike",
    labels: Sequence[object],
    out: Path | str | None = None,
    title: str | None = None,
    *,
    method: str = "auto",
    most: int = 1000,
    seed: int = 0,
    images: Sequence[Image] | None = None,
) -> "Figure":
    """Draw each embedding as a point; the same arguments give the same map.

    Twelve labels, the most frequent, have a colour and a mark; all others are grey. On one thread, so
    that sums come in one order, a thousand points take t-SNE some seconds.

    Args:
        embeddings: ``(N, D)``.
        labels: N, of any kind that can be written.
        out: Where to write the picture.
        title: Above it; which points of how many are seen is said under it.
        method: ``tsne``, ``umap`` (needs umap-learn), ``pca``, or ``auto``: UMAP where it is installed
            and t-SNE elsewhere.
        most: Points; of more embeddings so many are drawn at random.
        seed: Of that draw and of the method.
        images: N, shown in place of points where they do not lie on each other: uint8 ``(C, H, W)`` with
            C 1 or 3.

    Raises:
        DataError: if shapes and numbers disagree, an embedding is not finite, all are the same, or there
            are too few points for the method.
        InputError: if no picture can be written there.
        ValueError: for another method, or UMAP where it is not installed.
    """
    check_picture_path(out)
    method = _known(method)
    # PyTorch reads what NumPy does not: bfloat16, and tensors with gradients or on a device.
    import torch

    x = torch.as_tensor(embeddings).detach().cpu().float().numpy()
    names = [str(label) for label in (labels.tolist() if hasattr(labels, "tolist") else labels)]
    _check(x, names, images)
    total = len(x)
    kept = np.arange(total)
    if total > most:
        kept = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
    x, names = x[kept], [names[row] for row in kept]
    if method == "auto":
        fits = find_spec("umap") is not None and len(x) >= _LEAST["umap"]
        method = "umap" if fits else "tsne"
    points = _framed(_projected(x, method, seed))
    drawn = f"all {total:,} embeddings"
    if len(kept) < total:
        drawn = f"{len(kept):,} embeddings drawn at random from {total:,}"
    with house_style():
        figure = new_figure(_MAP + 2.0, _MAP + 1.0)
        figure.set_layout_engine("none")  # a square with a legend beside it is none it gets right
        axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        taken = _draw_images(axis, points, names, images, kept) if images is not None else set()
        legend = _draw_points(axis, points, names, taken)
        axis.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0), xticks=[], yticks=[])
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set(visible=True, color="#dddddd")
        said = f"{_NAMES[method]} of {drawn}, seed {seed}"
        axis.set_title(said, fontsize=9, fontweight="normal", color="#444444")
        _place(figure, axis, legend, title)
        save_figure(figure, out)
    return figure


def _known(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"method is '{method}'; {did_you_mean(method, METHODS)}")
    if method == "umap" and find_spec("umap") is None:
        raise ValueError("method is 'umap', and umap-learn is not installed; use auto or tsne")
    return method


def _check(x: "NDArray[Any]", labels: list[str], images: Sequence[Image] | None) -> None:
    if x.ndim != 2 or not x.size:
        raise DataError(f"embeddings have shape {x.shape}; expected (N, D), neither of them 0")
    if len(labels) != len(x) or (images is not None and len(images) != len(x)):
        of_images = "" if images is None else f" and {len(images)} images"
        raise DataError(f"there are {len(labels)} labels{of_images} for {len(x)} embeddings")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(x)} embeddings are not finite (first: row {bad[0]}); the model has "
            "diverged, or its precision overflows"
        )


def _projected(x: "NDArray[np.float32]", method: str, seed: int) -> "NDArray[np.float64]":
    """``(N, 2)`` by one of the methods."""
    if len(x) < _LEAST[method]:
        raise DataError(
            f"there are {len(x)} embeddings; {_NAMES[method]} needs at least {_LEAST[method]}"
        )
    if (x == x[0]).all():
        raise DataError(f"all {len(x)} embeddings are the same: there is no map of one point")
    if x.shape[1] == 1:
        x = np.pad(x, ((0, 0), (0, 1)))  # the plane of one number is a line
    from threadpoolctl import threadpool_limits

    # More threads add up in another order on every run.
    with threadpool_limits(1):
        if method == "pca":
            from sklearn.decomposition import PCA

            found = PCA(2, svd_solver="full").fit_transform(x)
        elif method == "tsne":
            from sklearn.manifold import TSNE

            # 30 is the usual number of neighbours; few points have not so many.
            perplexity = min(30.0, (len(x) - 1) / 3)
            found = TSNE(perplexity=perplexity, random_state=seed).fit_transform(x)
        else:
            from umap import UMAP

            neighbors = min(15, len(x) - 1)
            # With few points there are too few eigenvectors for its spectral start.
            start = "spectral" if len(x) > _SPECTRAL else "random"
            reducer = UMAP(n_neighbors=neighbors, init=start, random_state=seed, n_jobs=1)
            found = reducer.fit_transform(x)
    return np.asarray(found, dtype=np.float64)


def _framed(points: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """The points in the middle of the unit square, as large as room for an image at its edge allows."""
    low, high = points.min(axis=0), points.max(axis=0)
    middle, span = (low + high) / 2, float((high - low).max())
    return 0.5 + (points - middle) / span * (1.0 - 1.4 * _THUMBNAIL)


def _marks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of the most frequent labels; of equally frequent ones the first by name, 2 before 10."""
    counts = Counter(names)
    order = sorted(counts, key=lambda name: (-counts[name], natural_order(name)))
    marks = [(f"C{k}", marker) for marker in _MARKERS for k in range(_COLOURS)]
    return dict(zip(order, marks, strict=False))


def _draw_points(
    axis: "Axes", points: "NDArray[np.float64]", names: Sequence[str], taken: set[int]
) -> "Legend":
    """A point for each embedding that is no image; the legend beside them."""
    marks, counts = _marks(names), Counter(names)
    free = np.array([place not in taken for place in range(len(points))])
    size = float(np.clip(8000 / len(points), 9, _LEGEND_SIZE))
    label_of = np.array(names, dtype=object)
    others = np.array([name not in marks for name in names])
    texts = {name: fitted(name, _NAME, _POINTS) for name in marks}
    handles = []
    for name, (colour, marker) in marks.items():
        of_label = points[(label_of == name) & free]
        text = f"{texts[name]} ({counts[name]:,})"
        style: dict[str, Any] = {"c": colour, "marker": marker, "label": text}
        style |= {"edgecolors": "white", "linewidths": 0.4, "zorder": 3}
        handles.append(axis.scatter(of_label[:, 0], of_label[:, 1], s=size, **style))
    if others.any():
        rest = points[others & free]
        text = f"{len(counts) - len(marks):,} other labels ({others.sum():,})"
        style = {"c": _GREY, "linewidths": 0.0, "zorder": 2, "label": text}
        handles.append(axis.scatter(rest[:, 0], rest[:, 1], s=0.7 * size, **style))
    return axis.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        borderaxespad=0.0,
        markerscale=float(np.sqrt(_LEGEND_SIZE / size)),
        prop={"family": font_families(list(marks)), "size": _POINTS},
    )


def _place(figure: "Figure", axis: "Axes", legend: "Legend", title: str | None) -> None:
    """A square map with the legend on its right and the title above, in a figure that fits them."""
    # A tenth more: letters are wider at some resolutions.
    beside = 1.1 * legend.get_window_extent().width / figure.dpi
    width, height = 2 * _MARGIN + _MAP + beside, 2 * _MARGIN + _MAP + _SUBTITLE
    figure.set_size_inches(width, height)
    if title:
        text = add_title(figure, title)
        height += 0.2 * (1 + text.get_text().count("\n"))
        text.set_y(1.0 - 0.7 * _MARGIN / height)
    figure.set_figheight(height)
    axis.set_position((_MARGIN / width, _MARGIN / height, _MAP / width, _MAP / height))


def _draw_images(
    axis: "Axes",
    points: "NDArray[np.float64]",
    names: Sequence[str],
    images: Sequence[Image],
    kept: "NDArray[np.int64]",
) -> set[int]:
    """Images at their points, each where none lies yet; which points these are."""
    from matplotlib.patches import Rectangle

    marks = _marks(names)
    taken: list[int] = []
    for place, (x, y) in enumerate(points):
        # Largest difference of a coordinate: squares that do not touch.
        if taken and np.abs(points[taken] - (x, y)).max(axis=1).min() < 1.15 * _THUMBNAIL:
            continue
        taken.append(place)
        pixels = tile_pixels(images[kept[place]], f"image {kept[place]}")
        scale = _THUMBNAIL / max(pixels.shape[:2])
        high, wide = (scale * side / 2 for side in pixels.shape[:2])
        axis.imshow(
            pixels,
            cmap="gray",
            vmin=0,
            vmax=255,
            extent=(x - wide, x + wide, y - high, y + high),
            aspect="auto",
            interpolation=resampling(pixels),
            zorder=4,
        )
        colour = marks.get(names[place], (_GREY, ""))[0]
        frame = Rectangle((x - wide, y - high), 2 * wide, 2 * high, fill=False, edgecolor=colour)
        frame.set(linewidth=1.4, zorder=5)
        axis.add_patch(frame)
    return set(taken)
