"""Pictures of a session: neighbours right and wrong, thresholds, a map, GeM's p, DOLG's attention."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from common.config import load_run_config
from common.data.preprocessing import Preprocessing
from common.data.preprocessing_config import PreprocessingConfig
from common.metrics import MatchFold, matches_of
from common.models import DOLG, Normalize
from common.utils.checkpoint import load_checkpoint, load_weights
from common.utils.errors import DataError
from common.visualization import (
    NeighborRow,
    plot_embedding_map,
    plot_image_attention,
    plot_neighbors,
    plot_threshold_curve,
    plot_training_curves,
)
from common.visualization.curves import read_history
from projects.product_matching.core.config import Config
from projects.product_matching.core.evaluation import IMAGE, FoldMatches, SourceMatches, numbered
from projects.product_matching.core.matching.thresholds import HALVES, ITSELF, hits_of
from projects.product_matching.core.network import build_network
from projects.product_matching.core.pooling_log import P
from projects.product_matching.core.training import FoldOutcome

PLOTS = "plots"
_ATTENTION = 8  # images
_SHOWN = PreprocessingConfig(image_size=[96, 96], resize="pad", mode="RGB")  # on a sheet


def draw_fold(outcome: FoldOutcome, config: Config) -> None:
    """The map of the held-out embeddings, GeM's p over training, and DOLG's attention."""
    plots = outcome.directory / PLOTS
    if (plots / "embedding_map.png").exists():
        return  # of a fold that was finished before
    plots.mkdir(exist_ok=True)
    items = outcome.items
    title = f"{len(items):,} items that the network has not seen"
    path, most = plots / "embedding_map.png", config.pictures.points
    _drawn(plot_embedding_map, outcome.embeddings, items.labels, path, title, most=most)
    # One position has the same mean for every p: there is nothing to learn, and nothing to see.
    if len({record[P] for record in read_history(outcome.directory) if P in record}) > 1:
        _drawn(plot_training_curves, outcome.directory, plots / f"{P}.png", [P])
    _drawn(_draw_attention, outcome, plots / "attention.png")


def draw_session(home: Path, config: Config, judged: Mapping[str, SourceMatches]) -> None:
    """For every source of every fold the threshold's curve and sheets of queries, right and wrong."""
    plots = home / PLOTS
    plots.mkdir(exist_ok=True)
    for source, found in judged.items():
        for number, fold in found.folds.items():
            name = f"{source.replace(' ', '_')}_fold_{number}"
            if fold.threshold is None or fold.neighbors is None:
                continue
            _drawn(_draw_curve, fold, plots / f"threshold_{name}.png", source, number)
            for is_right in (True, False):
                kind = "right" if is_right else "wrong"
                path = plots / f"neighbors_{kind}_{name}.png"
                _drawn(_draw_sheet, fold, config, path, source, is_right)


def _drawn(draw: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    """Pictures are beside the numbers: one that cannot be drawn is said, and stops nothing."""
    try:
        draw(*args, **kwargs)
    except DataError as error:
        logger.warning(f"a picture is left out: {error}")


def _draw_curve(fold: FoldMatches, path: Path, source: str, number: int) -> None:
    assert fold.threshold is not None
    threshold = fold.threshold
    curves = {threshold.value_picked_on: threshold.curve}
    title, mark = f"Matches by {source}, fold {number}", "chosen"
    if threshold.value_picked_on == ITSELF:
        curves = {f"{ITSELF} (oracle)": threshold.curve}
        judged_at = " and ".join(f"{value:.4g}" for value in threshold.judged_at)
        title += (
            f": F{threshold.curve.beta:g} {fold.scores['f_score']:.3f} at {judged_at}, "
            f"each picked on {HALVES}"
        )
        mark = "oracle, kept for new images"
    else:
        curves[f"fold {number}"] = threshold.oracle_curve
    plot_threshold_curve(curves, threshold.value, path, title, mark=mark)


def _draw_sheet(fold: FoldMatches, config: Config, path: Path, source: str, is_right: bool) -> None:
    """Queries whose nearest neighbour is right, or those where it is wrong, evenly spaced.

    Images are named by their labels, or by titles where these were compared.
    """
    assert fold.neighbors is not None
    labels = numbered(fold.items.labels)
    hits = hits_of(MatchFold(fold.neighbors, labels))
    wanted = (matches_of(labels) > 0) & (hits[:, 0] == is_right)
    found = wanted.nonzero().flatten()
    if not len(found):
        return
    count = min(config.pictures.queries, len(found))
    chosen = found[torch.linspace(0, len(found) - 1, count).round().long()].tolist()
    width = min(config.pictures.neighbors, fold.neighbors.ids.shape[1])
    recipe = Preprocessing(_SHOWN)
    images = {
        row: recipe(fold.items.sources[row])
        for row in {*chosen, *fold.neighbors.ids[chosen, :width].flatten().tolist()}
    }
    titles = None if source == IMAGE else fold.items.titles
    names = fold.items.labels if titles is None else titles
    sheet = []
    for query in chosen:
        ids = fold.neighbors.ids[query, :width].tolist()
        sheet.append(
            NeighborRow(
                query=images[query],
                neighbors=[images[row] for row in ids],
                scores=fold.neighbors.scores[query, :width].tolist(),
                right=hits[query, :width].tolist(),
                name=names[query],
                names=[names[row] for row in ids],
            )
        )
    what = "right" if is_right else "wrong"
    title = f"By {source}: {count} of {len(found):,} items whose nearest neighbour is {what}"
    plot_neighbors(sheet, path, title)


def _draw_attention(outcome: FoldOutcome, path: Path) -> None:
    config, _ = load_run_config(Config, outcome.directory)
    network = build_network(config.model)
    if not isinstance(network, DOLG):
        return
    file = outcome.directory / "checkpoints" / "last.pt"
    weights = load_checkpoint(file)["model"]
    own = {k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")}
    load_weights(network, own, str(file))
    recipe = config.transforms.preprocessing
    count = min(_ATTENTION, len(outcome.items))
    rows = torch.linspace(0, len(outcome.items) - 1, count).round().long().tolist()
    images = torch.stack([Preprocessing(recipe)(outcome.items.sources[row]) for row in rows])
    with torch.inference_mode():
        maps = network.eval().attention(Normalize(recipe.mean or (), recipe.std or ())(images))
    captions = [(outcome.items.labels[row],) for row in rows]
    plot_image_attention(
        list(images), list(maps), captions, path, "DOLG: the local branch's attention"
    )
