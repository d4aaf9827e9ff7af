"""Matches of held-out items by image, by title and by both, counted by hand."""

import pytest
import torch

from common.utils.errors import DataError
from projects.product_matching.core.config import Config, MatchingConfig
from projects.product_matching.core.evaluation import BOTH, IMAGE, TITLE, candidates, judge_folds
from projects.product_matching.core.items.items import Items
from tests.projects.product_matching.sessions import composed


def _items(labels: list[str], fold: int) -> Items:
    names = tuple(f"{fold}/{row}" for row in range(len(labels)))
    blank = ("",) * len(labels)
    return Items(names, blank, tuple(labels), blank, blank, "made up")


def _vectors(groups: list[int], width: int = 8) -> torch.Tensor:
    """Equal rows for equal groups, orthogonal ones for others."""
    return torch.eye(width)[groups]


def _config(mode: str) -> Config:
    return composed(f"text.mode={mode}")[0]


def test_either_source_finds_what_the_other_misses() -> None:
    labels = {0: list("aabb"), 1: list("ccdd")}
    held_out = {fold: _items(own, fold) for fold, own in labels.items()}
    images = {fold: _vectors([0, 0, 1, 2]) for fold in labels}  # the second pair looks different
    titles = {
        fold: _vectors([0, 1, 2, 2]) for fold in labels
    }  # the first pair is named differently
    found = judge_folds(held_out, images, titles, _config("union"))
    # Alone, each finds one pair of two: the other items list only themselves, F = 2/3.
    for source in (IMAGE, TITLE):
        assert found[source].pooled["f_score"] == pytest.approx((2 * 1 + 2 * 2 / 3) / 4)
        assert found[source].pooled["precision"] == 1.0
    assert found[BOTH].pooled["f_score"] == 1.0
    assert found[BOTH].folds[0].union is not None


def test_concatenation_finds_both_kinds_of_pairs() -> None:
    labels = {0: list("aabb"), 1: list("ccdd")}
    held_out = {fold: _items(own, fold) for fold, own in labels.items()}
    images = {fold: _vectors([0, 0, 1, 2]) for fold in labels}
    titles = {fold: _vectors([0, 1, 2, 2]) for fold in labels}
    found = judge_folds(held_out, images, titles, _config("concat"))
    assert found[BOTH].pooled["f_score"] == 1.0
    assert found[BOTH].folds[1].threshold is not None
    assert 0.0 < found[BOTH].folds[1].threshold.value <= 0.5 + 1e-6


def test_a_single_fold_with_titles_is_judged_by_halves_too() -> None:
    held_out = {2: _items(list("aabbccdd"), 2)}
    images = {2: _vectors([0, 0, 1, 1, 2, 3, 4, 5])}
    titles = {2: _vectors([0, 1, 2, 3, 4, 4, 5, 5])}
    found = judge_folds(held_out, images, titles, _config("union"))
    assert found[IMAGE].folds[2].scores["precision"] == 1.0
    assert found[BOTH].pooled["f_score"] >= found[IMAGE].pooled["f_score"]
    assert found[IMAGE].spread["f_score"]["deviation"] is None


def test_the_interval_is_over_labels_not_items() -> None:
    held_out = {fold: _items(list("aaaaaaaabc"), fold) for fold in (0, 1)}
    generator = torch.Generator().manual_seed(0)
    images = {fold: torch.randn(10, 8, generator=generator) for fold in (0, 1)}
    found = judge_folds(held_out, images, None, _config("none"))[IMAGE]
    assert found.interval.low <= found.pooled["f_score"] <= found.interval.high


def test_a_fold_too_small_for_query_expansion_is_refused() -> None:
    with pytest.raises(DataError, match=r"holds out 3 items, and matching\.expansion"):
        candidates(torch.eye(3), MatchingConfig(expansion=5))
