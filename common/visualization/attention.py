"""Attention weights as heat maps, one panel per head."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.utils.errors import DataError
from common.visualization.labels import add_title
from common.visualization.style import house_style, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


def plot_attention(
    weights: "Tensor",
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    out: Path | str | None = None,
    title: str | None = None,
) -> "Figure":
    """Draw what each target token attends to.

    Args:
        weights: ``(H, T, S)``, or ``(T, S)`` for one map; rows sum to one.
        source_tokens: The S tokens that are attended to, for the horizontal axis.
        target_tokens: The T tokens that attend, for the vertical axis.
        out: Where to write the picture.
        title: Above all panels; wrapped to their width, and shortened past three lines.

    Raises:
        DataError: if the numbers of tokens and the shape of the weights do not agree.
    """
    maps = weights.detach().cpu().float()
    if maps.ndim == 2:
        maps = maps[None]
    expected = (len(target_tokens), len(source_tokens))
    if maps.ndim != 3 or tuple(maps.shape[1:]) != expected:
        raise DataError(f"weights have shape {tuple(weights.shape)}, expected (heads, *{expected})")
    columns = min(4, len(maps))
    rows = math.ceil(len(maps) / columns)
    width, height = (max(2.6, 0.24 * count + 1.0) for count in (expected[1], expected[0]))
    with house_style():
        figure = new_figure(min(width * columns, 24), min(height * rows + 0.4, 24))
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for head, axis in enumerate(axes.flat):
            if head >= len(maps):
                axis.set_visible(False)
                continue
            axis.imshow(maps[head].numpy(), cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
            axis.grid(False)
            if len(maps) > 1:
                axis.set_title(f"head {head + 1}")
            axis.set_xticks(range(expected[1]), [_label(t) for t in source_tokens], rotation=90)
            axis.set_yticks(range(expected[0]), [_label(t) for t in target_tokens])
        for axis in axes.flat:
            axis.tick_params(length=0, labelsize=8)
        if title:
            add_title(figure, title)
        save_figure(figure, out)
    return figure


def _label(token: str) -> str:
    """A token with its spaces to be seen."""
    return _escaped(token).replace(" ", "␣")


def _escaped(text: str) -> str:
    """A dollar sign that starts no formula."""
    return text.replace("$", r"\$")
