"""Matches of held-out items by image, by title and by both, counted by hand."""

import pytest
import torch

from common.metrics import MatchFold, Neighbors
from common.utils.errors import DataError
from projects.product_matching.core.config import Config, MatchingConfig
from projects.product_matching.core.evaluation import BOTH, IMAGE, TITLE, judge_folds
from projects.product_matching.core.items.items import Items
from projects.product_matching.core.matching.candidates import candidates
from projects.product_matching.core.matching.match_rules import pick_union
from projects.product_matching.core.matching.thresholds import first_half
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


def _random(seed: int, labels: int, each: int) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """Labels, and two kinds of noisy embeddings of as many items of each, mixed."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.arange(labels).repeat(each)[torch.randperm(labels * each, generator=generator)]
    kinds = []
    for _ in range(2):
        centres = torch.randn(labels, 8, generator=generator)[own]
        noisy = centres + torch.randn(len(own), 8, generator=generator)
        kinds.append(torch.nn.functional.normalize(noisy))
    return [str(label) for label in own.tolist()], kinds[0], kinds[1]


def _union_f(
    kinds: list[torch.Tensor], labels: torch.Tensor, k: int, thresholds: list[float]
) -> torch.Tensor:
    """F of each item from sets: what passes by either, among its k nearest of each."""
    rows = []
    for i in range(len(labels)):
        listed = {i}
        for x, least in zip(kinds, thresholds, strict=True):
            cosines = (x[i] @ x.T).double()
            cosines[i] = -torch.inf
            listed |= {j for j in cosines.topk(k).indices.tolist() if cosines[j] >= least - 1e-7}
        truth = set((labels == labels[i]).nonzero().flatten().tolist())
        rows.append(2 * len(listed & truth) / (len(listed) + len(truth)))
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("neighbors", [1, 3, 50])
def test_halves_of_a_single_fold_are_searched_anew(neighbors: int) -> None:
    labels, image, title = _random(neighbors, labels=6, each=4)
    config = _config("union")
    config.matching.neighbors = neighbors
    fold = judge_folds({0: _items(labels, 0)}, {0: image}, {0: title}, config)[BOTH].folds[0]
    numbers = torch.tensor([int(label) for label in labels])
    first = first_half(numbers)
    assert fold.union is not None
    for half in (first, ~first):
        # The best pair of thresholds by image and title among the items of the half alone.
        k = min(neighbors, int(half.sum()) - 1)
        parts = []
        for x in (image[half], title[half]):
            top = (x @ x.T).fill_diagonal_(-2.0).topk(k)
            parts.append(MatchFold(Neighbors(top.indices, top.values), numbers[half]))
        picked = pick_union(*parts)
        pair = pytest.approx((picked.image, picked.title), abs=1e-5)
        assert any(judged == pair for judged in fold.union.judged_at)
        kinds = [image[half], title[half]]
        here = _union_f(kinds, numbers[half], k, [picked.image, picked.title])
        assert float(here.mean()) == pytest.approx(picked.picked_score)
        expected = _union_f(
            [image, title], numbers, min(neighbors, 23), [picked.image, picked.title]
        )
        torch.testing.assert_close(fold.rows["f_score"][~half], expected[~half])


@pytest.mark.parametrize("count", [1, 3])
def test_thresholds_of_a_union_say_what_they_were_picked_on(count: int) -> None:
    folds = {number: _random(number, labels=6, each=4) for number in range(count)}
    found = judge_folds(
        {number: _items(labels, number) for number, (labels, _, _) in folds.items()},
        {number: image for number, (_, image, _) in folds.items()},
        {number: title for number, (_, _, title) in folds.items()},
        _config("union"),
    )
    for number, (labels, image, title) in folds.items():
        told = found[BOTH].to_dict()["folds"][str(number)]
        single = found[IMAGE].to_dict()["folds"][str(number)]
        assert told["picked_on"] == single["picked_on"]
        assert told["thresholds_picked_on"] == single["threshold_picked_on"]
        assert len(told["judged_at"]) == (2 if count == 1 else 1)
        assert (told["thresholds"] in told["judged_at"]) == (count > 1)
        # The oracle is a pair that these very items are served by as it says, and better.
        numbers = torch.tensor([int(label) for label in labels])
        pair = [told["oracle"]["thresholds"][source] for source in ("image", "title")]
        f = _union_f([image, title], numbers, 23, pair).mean()
        assert told["oracle"]["f_score"] == pytest.approx(float(f))
        if count > 1:
            assert told["oracle"]["f_score"] >= told["f_score"]


def test_the_interval_is_over_labels_not_items() -> None:
    held_out = {fold: _items(list("aaaaaaaabc"), fold) for fold in (0, 1)}
    generator = torch.Generator().manual_seed(0)
    images = {fold: torch.randn(10, 8, generator=generator) for fold in (0, 1)}
    found = judge_folds(held_out, images, None, _config("none"))[IMAGE]
    assert found.interval.low <= found.pooled["f_score"] <= found.interval.high


def test_a_fold_too_small_for_query_expansion_is_refused() -> None:
    with pytest.raises(DataError, match=r"holds out 3 items, and matching\.expansion"):
        candidates(torch.eye(3), MatchingConfig(expansion=5))
