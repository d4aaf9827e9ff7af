"""Multi-Similarity against pytorch-metric-learning, and pair by pair in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.losses.multi_similarity import MultiSimilarityLoss

B, D = 14, 6


def _batch(count: int = B, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(count, D, generator=generator)
    return embeddings.requires_grad_(), torch.randint(classes, (count,), generator=generator)


@pytest.mark.parametrize(
    ("count", "classes", "values"),
    [
        (24, 6, {}),
        (24, 2, {}),
        (40, 30, {}),  # most labels are alone
        (24, 6, {"alpha": 5.0, "beta": 10.0, "base": 0.2, "epsilon": 0.0}),
        (24, 6, {"alpha": 1.0, "beta": 2.0, "epsilon": 0.3}),  # what is barely kept counts too
        (24, 6, {"epsilon": 3.0}),  # every pair
    ],
)
def test_mining_and_loss_are_the_librarys(
    count: int, classes: int, values: dict[str, float]
) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    ours = MultiSimilarityLoss(**values)
    theirs = losses.MultiSimilarityLoss(ours.alpha, ours.beta, ours.base)
    miner = miners.MultiSimilarityMiner(ours.epsilon)
    for seed in range(3):
        embeddings, labels = _batch(count, classes, seed)
        copied = embeddings.detach().clone().requires_grad_()

        found = ours(embeddings, labels)
        expected = theirs(copied, labels, miner(copied, labels))
        found.backward()
        expected.backward()

        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(embeddings.grad, copied.grad, rtol=1e-4, atol=1e-6)


def test_it_is_its_definition() -> None:
    embeddings, labels = _batch()
    exact = embeddings.detach().double().requires_grad_()
    x = F.normalize(exact)
    cosines = x @ x.T
    terms, kept, seen = [], 0, 0
    for i in range(B):
        positives = [cosines[i, j] for j in range(B) if j != i and labels[j] == labels[i]]
        negatives = [cosines[i, j] for j in range(B) if labels[j] != labels[i]]
        term = cosines.new_zeros(())
        if positives and negatives:
            pulls = [s for s in positives if s < max(negatives) + 0.1]
            pushes = [s for s in negatives if s > min(positives) - 0.1]
            kept, seen = kept + len(pulls + pushes), seen + len(positives + negatives)
            term = term + sum(((0.5 - s) * 2).exp() for s in pulls).log1p() / 2 if pulls else term
            if pushes:
                term = term + sum(((s - 0.5) * 50).exp() for s in pushes).log1p() / 50
        terms.append(term)
    assert 0 < kept < seen, "the batch must have pairs of both kinds"

    found = MultiSimilarityLoss()(embeddings, labels)
    expected = torch.stack(terms).mean()
    found.backward()
    expected.backward()

    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(embeddings.grad, exact.grad.float(), rtol=1e-4, atol=1e-6)


def test_steep_exponents_do_not_overflow() -> None:
    embeddings, labels = _batch()
    loss = MultiSimilarityLoss(alpha=1e4, beta=1e4)(embeddings, labels)
    loss.backward()
    assert 0 < loss.item() < 3  # then it is the hardest pairs' distance from the base
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("labels", [torch.zeros(B, dtype=torch.long), torch.arange(B)])
def test_one_class_or_only_lone_labels_give_zero_and_a_gradient_of_zero(labels: Tensor) -> None:
    embeddings = _batch()[0]
    loss = MultiSimilarityLoss()(embeddings, labels)
    loss.backward()
    assert loss.item() == 0.0
    assert not embeddings.grad.any()


def test_equal_and_opposite_embeddings_have_finite_gradients() -> None:
    signs = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, -1.0])
    embeddings = (signs[:, None] * torch.ones(6, D)).requires_grad_()
    loss = MultiSimilarityLoss()(embeddings, torch.tensor([0, 0, 0, 1, 1, 1]))
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()


def test_a_nan_reaches_the_loss() -> None:
    embeddings, labels = _batch()
    with torch.no_grad():
        embeddings[3, 0] = torch.nan
    assert MultiSimilarityLoss()(embeddings, labels).isnan()


def test_autocast_changes_no_bit_and_an_evaluation_has_no_graph() -> None:
    embeddings, labels = _batch()
    expected = MultiSimilarityLoss()(embeddings, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = MultiSimilarityLoss()(embeddings, labels)
    with torch.no_grad():
        evaluated = MultiSimilarityLoss()(embeddings, labels)
    assert found.dtype is torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(evaluated, expected)
    assert not evaluated.requires_grad


def test_labels_beyond_what_a_float_can_tell_apart_are_told_apart() -> None:
    embeddings, labels = _batch()
    expected = MultiSimilarityLoss()(embeddings, labels)
    assert torch.equal(MultiSimilarityLoss()(embeddings, labels + 2**24), expected)
    assert torch.equal(MultiSimilarityLoss()(embeddings, labels + 2**53), expected)


@pytest.mark.parametrize("values", [{"alpha": 0.0}, {"beta": -1.0}, {"epsilon": math.nan}])
def test_values_without_a_meaning_are_named(values: dict[str, float]) -> None:
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=f"{name} (is )?{value}"):
        MultiSimilarityLoss(**values)
