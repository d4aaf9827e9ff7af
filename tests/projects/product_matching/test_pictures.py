"""What the pictures of a session say of its numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.visualization import plot_threshold_curve
from projects.product_matching.core import pictures
from projects.product_matching.core.evaluation import IMAGE, judge_folds
from projects.product_matching.core.items.items import Items
from projects.product_matching.core.training import FoldOutcome
from tests.projects.product_matching.sessions import composed


def _items(fold: int, labels: int = 12, each: int = 4) -> Items:
    names = tuple(f"{fold}/{row}" for row in range(labels * each))
    own = tuple(f"{fold}-{row // each}" for row in range(labels * each))
    blank = ("",) * len(names)
    return Items(names, blank, own, blank, blank, "made up")


def _embeddings(seed: int, labels: int = 12, each: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(labels, 8, generator=generator).repeat_interleave(each, 0)
    rows = centers + 0.6 * torch.randn(len(centers), 8, generator=generator)
    return torch.nn.functional.normalize(rows)


@pytest.mark.parametrize(("values", "is_drawn"), [([3.0, 3.0, 3.0], False), ([3.0, 3.01], True)])
def test_a_p_that_never_moved_is_not_drawn(
    values: list[float], is_drawn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"step": step, "gem_p": value} for step, value in enumerate(values, start=1)]
    lines = [json.dumps(record) for record in records]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(pictures, "_draw_attention", lambda *_: None)
    outcome = FoldOutcome(tmp_path, _items(0), _embeddings(0), {}, {})
    pictures.draw_fold(outcome, composed()[0])
    assert (tmp_path / "plots" / "embedding_map.png").is_file()
    assert (tmp_path / "plots" / "gem_p.png").is_file() == is_drawn


@pytest.mark.parametrize("folds", [[2], [0, 1]])
def test_a_threshold_that_was_picked_on_the_judged_items_is_drawn_as_oracle(
    folds: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed()[0]
    held_out = {fold: _items(fold) for fold in folds}
    judged = judge_folds(held_out, {fold: _embeddings(fold) for fold in folds}, None, config)
    drawn: list[Any] = []
    monkeypatch.setattr(
        pictures,
        "plot_threshold_curve",
        lambda *a, **k: drawn.append(plot_threshold_curve(*a, **k)),
    )
    monkeypatch.setattr(pictures, "_draw_sheet", lambda *_: None)
    pictures.draw_session(tmp_path, config, judged)
    axis = drawn[0].axes[0]
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    marked = axis.texts[0].get_text()
    title = " ".join(drawn[0].get_suptitle().split())
    found = judged[IMAGE].folds[folds[0]]
    assert found.threshold is not None
    if len(folds) > 1:
        assert legend[0].startswith("the other folds: F1")
        assert marked == f"chosen: {found.threshold.value:.4g}"
        return
    best, score = found.threshold.oracle
    assert legend[0] == f"the fold itself (oracle): F1 {score:.3f} at {best:.4g}"
    assert marked == f"oracle, kept for new images: {best:.4g}"
    first, second = found.threshold.judged_at  # of the two halves
    assert f"F1 {found.scores['f_score']:.3f} at {first:.4g} and {second:.4g}" in title
    assert found.scores["f_score"] < score
