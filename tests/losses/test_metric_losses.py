"""Proxy-Anchor and triplets against pytorch-metric-learning and by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.losses.proxy import ProxyAnchorLoss
from common.losses.triplet import MININGS, TripletMarginLoss, pairwise_distances

B, D, K = 24, 8, 5


def _batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, D, generator=generator), torch.randint(K, (B,), generator=generator)


@pytest.mark.parametrize("classes", [K, K + 7])
def test_proxy_anchor_is_the_librarys(classes: int) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    theirs = losses.ProxyAnchorLoss(classes, D, margin=0.1, alpha=32)
    ours = ProxyAnchorLoss(D, classes, margin=0.1, scale=32.0)
    with torch.no_grad():
        ours.proxies.copy_(theirs.proxies)
    embeddings, labels = _batch()
    given = [embeddings.clone().requires_grad_() for _ in range(2)]

    expected, found = theirs(given[0], labels), ours(given[1], labels)
    expected.backward()
    found.backward()

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(given[1].grad, given[0].grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.proxies.grad, theirs.proxies.grad, rtol=1e-4, atol=1e-6)


def test_proxy_anchor_does_not_overflow() -> None:
    loss = ProxyAnchorLoss(D, K, scale=1e4)
    embeddings, labels = _batch()
    value = loss(embeddings.requires_grad_(), labels)
    value.backward()
    assert value.isfinite()
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("squared", [False, True])
def test_batch_hard_is_its_definition(squared: bool) -> None:
    embeddings, labels = _batch()
    distances = torch.cdist(F.normalize(embeddings), F.normalize(embeddings))
    distances = distances.square() if squared else distances
    terms = []
    for i in range(B):
        own = [distances[i, j] for j in range(B) if j != i and labels[j] == labels[i]]
        others = [distances[i, j] for j in range(B) if labels[j] != labels[i]]
        if own:
            terms.append((max(own) - min(others) + 0.2).clamp(min=0.0))

    found = TripletMarginLoss(0.2, squared=squared)(embeddings, labels)

    torch.testing.assert_close(found.loss, torch.stack(terms).mean(), rtol=1e-5, atol=1e-6)
    assert found.triplets == len(terms)
    assert found.active.item() == pytest.approx(sum(t > 0 for t in terms) / len(terms))


def test_batch_hard_is_the_librarys() -> None:
    miners = pytest.importorskip("pytorch_metric_learning.miners")
    from pytorch_metric_learning.losses import TripletMarginLoss as Theirs
    from pytorch_metric_learning.reducers import MeanReducer

    embeddings, labels = _batch()
    mined = miners.BatchHardMiner()(embeddings, labels)
    expected = Theirs(margin=0.2, reducer=MeanReducer())(embeddings, labels, mined)
    found = TripletMarginLoss(0.2)(embeddings, labels).loss
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("squared", [False, True])
def test_value_and_gradient_over_the_same_triplets_are_the_librarys(
    mining: str, squared: bool
) -> None:
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss as Theirs
    from pytorch_metric_learning.reducers import MeanReducer

    embeddings, labels = _batch()
    given = [embeddings.clone().requires_grad_() for _ in range(2)]
    ours = TripletMarginLoss(0.3, mining, squared)
    theirs = Theirs(0.3, distance=LpDistance(power=1 + squared), reducer=MeanReducer())
    torch.manual_seed(0)
    triplets = ours._mine(pairwise_distances(F.normalize(embeddings)), labels, D)
    torch.manual_seed(0)

    found, expected = ours(given[0], labels), theirs(given[1], labels, triplets)
    found.loss.backward()
    expected.backward()

    distances = torch.cdist(F.normalize(embeddings), F.normalize(embeddings))
    anchors, positives, negatives = triplets
    assert found.triplets == len(anchors) > 0
    torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(given[0].grad, given[1].grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.positive_distance, distances[anchors, positives].mean())
    torch.testing.assert_close(found.negative_distance, distances[anchors, negatives].mean())


@pytest.mark.parametrize("squared", [False, True])
def test_semi_hard_is_its_definition(squared: bool) -> None:
    embeddings, labels = _batch(1)
    distances = torch.cdist(F.normalize(embeddings), F.normalize(embeddings))
    distances = distances.square() if squared else distances
    terms = []
    for i in range(B):
        for p in range(B):
            if p == i or labels[p] != labels[i]:
                continue
            beyond = [
                distances[i, n]
                for n in range(B)
                if labels[n] != labels[i]
                and distances[i, p] < distances[i, n] < distances[i, p] + 0.3
            ]
            if beyond:
                terms.append(distances[i, p] - min(beyond) + 0.3)

    found = TripletMarginLoss(0.3, "semi_hard", squared)(embeddings, labels)

    assert found.triplets == len(terms) > 0
    torch.testing.assert_close(found.loss, torch.stack(terms).mean(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("squared", [False, True])
def test_semi_hard_negatives_lie_between_the_positive_and_the_margin(squared: bool) -> None:
    embeddings, labels = _batch()
    loss = TripletMarginLoss(0.3, "semi_hard", squared)
    distances = pairwise_distances(F.normalize(embeddings))
    anchors, positives, negatives = loss._mine(distances, labels, D)
    measured = distances.square() if squared else distances
    own, other = measured[anchors, positives], measured[anchors, negatives]

    assert len(anchors) > 0
    assert (labels[anchors] == labels[positives]).all()
    assert (labels[anchors] != labels[negatives]).all()
    assert ((other > own) & (other < own + 0.3)).all()
    assert loss(embeddings, labels).active.item() == 1.0


def test_distance_weighted_draws_every_distance_alike() -> None:
    """On points drawn at random from the sphere the drawn distances are uniform in the range."""
    torch.manual_seed(0)
    embeddings = torch.randn(1500, 3)
    labels = torch.arange(1500) % 2
    distances = pairwise_distances(F.normalize(embeddings))
    loss = TripletMarginLoss(0.2, "distance_weighted")
    anchors, _, negatives = loss._mine(distances[:300, :300], labels[:300], 3)
    drawn = distances[anchors, negatives]
    assert drawn.max() <= 1.4
    inside = drawn[drawn > 0.5]
    counts = torch.histc(inside, 3, 0.5, 1.4) / len(inside)
    torch.testing.assert_close(counts, torch.full((3,), 1 / 3), atol=0.03, rtol=0)


@pytest.mark.parametrize("mining", MININGS)
def test_a_batch_of_one_class_has_no_triplet_and_a_gradient_of_zero(mining: str) -> None:
    embeddings = _batch()[0].requires_grad_()
    found = TripletMarginLoss(0.2, mining)(embeddings, torch.zeros(B, dtype=torch.long))
    found.loss.backward()
    assert found.triplets == 0
    assert found.loss.item() == 0.0
    assert not embeddings.grad.any()


@pytest.mark.parametrize("mining", MININGS)
def test_equal_embeddings_have_finite_gradients(mining: str) -> None:
    embeddings = torch.eye(D)[[0] * 6].requires_grad_()  # their distances are 0 to the last bit
    found = TripletMarginLoss(0.2, mining)(embeddings, torch.tensor([0, 0, 1, 1, 2, 2]))
    found.loss.backward()
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss", [TripletMarginLoss(0.2), TripletMarginLoss(0.2, "semi_hard"), ProxyAnchorLoss(D, K)]
)
def test_autocast_changes_no_bit(loss: torch.nn.Module) -> None:
    embeddings, labels = _batch()
    expected = loss(embeddings, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(embeddings, labels)
    for own, other in zip(_values(found), _values(expected), strict=True):
        assert own.dtype is other.dtype
        assert torch.equal(own, other)


def _values(output: object) -> list[Tensor]:
    values = output if isinstance(output, tuple) else (output,)
    return [torch.as_tensor(value) for value in values]


@pytest.mark.parametrize("mining", MININGS)
def test_a_nan_reaches_the_triplet_loss(mining: str) -> None:
    embeddings, labels = _batch()
    embeddings[3, 0] = torch.nan
    assert TripletMarginLoss(0.2, mining)(embeddings, labels).loss.isnan()


@pytest.mark.parametrize("mining", ["batch_hard", "semi_hard"])
def test_labels_beyond_what_a_float_can_tell_apart_are_told_apart(mining: str) -> None:
    embeddings, labels = _batch()
    loss = TripletMarginLoss(0.2, mining)
    expected = loss(embeddings, labels)
    assert expected.triplets > 0
    for offset in (2**24, 2**53):
        found = loss(embeddings, labels + offset)
        assert found.triplets == expected.triplets
        assert torch.equal(found.loss, expected.loss)


def test_an_evaluation_has_no_graph() -> None:
    embeddings, labels = _batch()
    with torch.no_grad():
        found = TripletMarginLoss(0.2)(embeddings.requires_grad_(), labels)
    assert not found.loss.requires_grad
    assert torch.equal(found.loss, TripletMarginLoss(0.2)(embeddings, labels).loss)


def test_values_without_a_meaning_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'batch_hard'"):
        TripletMarginLoss(mining="batch_hrd")
    with pytest.raises(ValueError, match="margin is 0"):
        TripletMarginLoss(margin=0.0)
    with pytest.raises(ValueError, match="scale -1"):
        ProxyAnchorLoss(D, K, scale=-1.0)
