"""The ArcFace family against pytorch-metric-learning, closed forms, and what must not happen."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.losses.angular import KINDS, AngularMarginHead, adaptive_margins

B, D, K = 32, 16, 10


def _batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, D, generator=generator), torch.randint(K, (B,), generator=generator)


def _mean(head: AngularMarginHead, embeddings: Tensor, labels: Tensor) -> Tensor:
    output = head(embeddings, labels)
    return output.loss / output.weight


@pytest.mark.parametrize(
    ("oracle", "kind", "centers"),
    [
        ("ArcFaceLoss", "arcface", 1),
        ("CosFaceLoss", "cosface", 1),
        ("SubCenterArcFaceLoss", "arcface", 3),
    ],
)
@pytest.mark.parametrize("scale", [8.0, 64.0])
def test_loss_and_gradients_are_the_librarys(
    oracle: str, kind: str, centers: int, scale: float
) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    margin = 0.35 if kind == "cosface" else math.radians(28.6)
    theirs = getattr(losses, oracle)(
        num_classes=K,
        embedding_size=D,
        margin=margin if kind == "cosface" else 28.6,
        scale=scale,
        **({"sub_centers": centers} if centers > 1 else {}),
    )
    ours = AngularMarginHead(D, K, kind=kind, margin=margin, scale=scale, num_centers=centers)
    with torch.no_grad():
        ours.centers.copy_(theirs.W.T)
    embeddings, labels = _batch()
    given = [embeddings.clone().requires_grad_() for _ in range(2)]

    expected, found = theirs(given[0], labels), _mean(ours, given[1], labels)
    expected.backward()
    found.backward()

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(given[1].grad, given[0].grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.centers.grad, theirs.W.grad.T, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_margin_it_is_the_normalised_softmax(kind: str) -> None:
    head = AngularMarginHead(D, K, kind=kind, margin=0.0, scale=10.0).eval()
    embeddings, labels = _batch()
    cosines = F.normalize(embeddings) @ F.normalize(head.centers).T
    if kind == "curricular":  # its negatives are weighed even so, where they are nearer
        own = cosines.gather(1, labels[:, None])
        cosines = torch.where(cosines > own, cosines * cosines, cosines)

    expected = F.cross_entropy(10.0 * cosines, labels)

    torch.testing.assert_close(_mean(head, embeddings, labels), expected)


def test_curricular_is_its_equations() -> None:
    head = AngularMarginHead(D, K, kind="curricular", margin=0.5, scale=10.0)
    embeddings, labels = _batch()
    cosines = (F.normalize(embeddings) @ F.normalize(head.centers).T).detach()
    own = cosines[torch.arange(B), labels]
    t = 0.01 * own.mean()  # equation 8 from t = 0
    logits = cosines.clone()
    for i in range(B):
        moved = torch.cos(torch.acos(own[i]) + 0.5)
        for c in range(K):
            if c == labels[i]:
                logits[i, c] = moved
            elif cosines[i, c] > moved:
                logits[i, c] = cosines[i, c] * (t + cosines[i, c])

    found = _mean(head, embeddings, labels)

    torch.testing.assert_close(found, F.cross_entropy(10.0 * logits, labels), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(head.hardness, t)


def test_one_of_several_equal_centers_is_arcface() -> None:
    one = AngularMarginHead(D, K, scale=10.0)
    several = AngularMarginHead(D, K, scale=10.0, num_centers=3)
    with torch.no_grad():
        several.centers.copy_(one.centers.repeat_interleave(3, 0))
    embeddings, labels = _batch()
    torch.testing.assert_close(_mean(several, embeddings, labels), _mean(one, embeddings, labels))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_at_the_poles_value_and_gradient_are_finite(kind: str, sign: float) -> None:
    head = AngularMarginHead(D, K, kind=kind, margin=0.4, scale=30.0)
    labels = torch.arange(K)
    embeddings = (sign * head.centers.detach()).clone().requires_grad_()

    loss = _mean(head, embeddings, labels)
    loss.backward()

    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()
    assert head.centers.grad.isfinite().all()


def test_the_gradient_of_the_cosines_is_exact() -> None:
    from common.losses.angular import _Cosines

    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(4, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    centers = torch.randn(6, 5, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(_Cosines.apply, (x, centers))


def test_autocast_changes_no_bit() -> None:
    head = AngularMarginHead(D, K, scale=30.0)
    embeddings, labels = _batch()
    expected = _mean(head, embeddings, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = _mean(head, embeddings, labels)
    assert found.dtype is torch.float32
    assert torch.equal(found, expected)


def test_half_precision_embeddings_give_float32_losses_and_gradients() -> None:
    head = AngularMarginHead(D, K, scale=30.0)
    embeddings, labels = _batch()
    half = embeddings.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = _mean(head, half, labels)
    found.backward()
    assert found.dtype is head.centers.grad.dtype is torch.float32
    assert half.grad.isfinite().all()
    torch.testing.assert_close(found, _mean(head, embeddings.bfloat16().float(), labels))


def test_class_weights_divide_by_their_sum() -> None:
    weights = [float(1 + c) for c in range(K)]
    head = AngularMarginHead(D, K, margin=0.0, scale=5.0, class_weights=weights)
    embeddings, labels = _batch()
    logits = 5.0 * head.cosines(embeddings)
    expected = F.cross_entropy(logits, labels, torch.tensor(weights))
    torch.testing.assert_close(_mean(head, embeddings, labels), expected)


def test_a_margin_for_each_class_is_that_classs() -> None:
    margins = [0.05 * c for c in range(K)]
    head = AngularMarginHead(D, K, margin=margins, scale=5.0)
    embeddings, labels = _batch()
    for c in labels.unique().tolist():
        rows = labels == c
        alone = AngularMarginHead(D, K, margin=margins[c], scale=5.0)
        alone.centers = head.centers
        torch.testing.assert_close(
            _mean(head, embeddings[rows], labels[rows]),
            _mean(alone, embeddings[rows], labels[rows]),
        )


def test_rare_classes_get_the_larger_margins() -> None:
    assert adaptive_margins([10_000, 1]) == [0.05, 0.5]
    assert adaptive_margins([7, 7, 7]) == [0.05] * 3
    middle = adaptive_margins([10_000, 16, 1])[1]
    assert middle == pytest.approx(0.05 + 0.45 * (16**-0.25 - 0.1) / 0.9)


def test_adaptive_margins_are_saved_and_not_trained() -> None:
    head = AngularMarginHead(D, 3, margin=adaptive_margins([100, 10, 1]))
    assert "margins" not in dict(head.named_parameters())
    other = AngularMarginHead(D, 3, margin=[0.1, 0.1, 0.1])
    other.load_state_dict(head.state_dict())
    assert other.margins.tolist() == pytest.approx(adaptive_margins([100, 10, 1]))


def test_the_cosines_know_no_margin() -> None:
    head = AngularMarginHead(D, K, margin=0.5, scale=30.0)
    embeddings, labels = _batch()
    found = head(embeddings, labels).cosines
    torch.testing.assert_close(
        found, F.normalize(embeddings) @ F.normalize(head.centers.detach()).T
    )
    assert not found.requires_grad


def test_the_scale_starts_where_adacos_does_and_may_learn() -> None:
    assert AngularMarginHead(D, 101).scale.item() == pytest.approx(math.sqrt(2) * math.log(100))
    assert AngularMarginHead(D, 2).scale.item() > 1.0
    head = AngularMarginHead(D, K, learnable_scale=True)
    embeddings, labels = _batch()
    _mean(head, embeddings, labels).backward()
    assert head.scale.grad is not None


def test_an_outlier_is_far_from_its_classs_dominant_center() -> None:
    head = AngularMarginHead(2, 2, num_centers=2)
    with torch.no_grad():
        head.centers.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
    embeddings = torch.tensor([[1.0, 0.1], [2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
    angles = head.dominant_angles(embeddings, torch.tensor([0, 0, 0, 1]))
    assert angles[2].item() == pytest.approx(90.0, abs=1e-3)
    assert (angles[[0, 1, 3]] < 75.0).all()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "arcfase"}, "did you mean 'arcface'"),
        ({"margin": 2.0}, "margin is 2.0; expected 0 to 1.571"),
        ({"margin": [0.1, 0.2]}, "2 margins for 10 classes"),
        ({"scale": "big"}, "scale is 'big'"),
        ({"class_weights": [1.0]}, "1 class weights for 10 classes"),
        ({"num_centers": 0}, "num_centers 0"),
    ],
)
def test_values_without_a_meaning_are_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AngularMarginHead(D, K, **values)
