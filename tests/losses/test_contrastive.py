"""NT-Xent of two views and by label against pytorch-metric-learning and float64."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from common.losses.contrastive import NTXentLoss, SupervisedNTXentLoss

B, D = 12, 8
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 3, 4, 4, 1, 5])  # 3 and 5 are alone


def _views(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, D, generator=generator).requires_grad_() for _ in range(2)]


def _copies(tensors: list[Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [tensor.detach().to(dtype).clone().requires_grad_() for tensor in tensors]


def _by_cross_entropy(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Equation 1 of SimCLR as a classification of 2B rows."""
    x = F.normalize(torch.cat([first, second]))
    logits = (x @ x.T / temperature).masked_fill(torch.eye(2 * B, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(2 * B).roll(B))


@pytest.mark.parametrize("temperature", [0.005, 0.024, 0.026, 0.1, 2.0])
def test_two_views_are_a_cross_entropy_over_all_others(temperature: float) -> None:
    given = _views()
    exact = _copies(given, torch.float64)

    found = NTXentLoss(temperature)(*given)
    expected = _by_cross_entropy(*exact, temperature)
    found.backward()
    expected.backward()

    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    for own, other in zip(given, exact, strict=True):
        torch.testing.assert_close(own.grad, other.grad.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_two_views_are_the_librarys(temperature: float) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    given = _views()
    theirs = _copies(given)

    found = NTXentLoss(temperature)(*given)
    expected = losses.NTXentLoss(temperature)(torch.cat(theirs), torch.arange(B).repeat(2))
    found.backward()
    expected.backward()

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    for own, other in zip(given, theirs, strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_by_label_every_pair_is_the_librarys(temperature: float) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    given = _views()[0]
    (theirs,) = _copies([given])

    found = SupervisedNTXentLoss(temperature)(given, LABELS)
    expected = losses.NTXentLoss(temperature)(theirs, LABELS)
    found.backward()
    expected.backward()

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(given.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.005, 0.1])
def test_by_label_is_its_definition(temperature: float) -> None:
    given = _views()[0]
    (exact,) = _copies([given], torch.float64)
    x = F.normalize(exact)
    logits = x @ x.T / temperature
    terms = []
    for i in range(B):
        negatives = logits[i][LABELS[i] != LABELS]
        for j in range(B):
            if j != i and LABELS[j] == LABELS[i]:
                terms.append(torch.cat([logits[i, j, None], negatives]).logsumexp(0) - logits[i, j])

    found = SupervisedNTXentLoss(temperature)(given, LABELS)
    expected = torch.stack(terms).mean()
    found.backward()
    expected.backward()

    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(given.grad, exact.grad.float(), rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_one_of_a_sum_has_its_share_of_the_gradient() -> None:
    alone, shared = _views()[0], _views()[0]
    SupervisedNTXentLoss()(alone, LABELS).backward()
    (3.0 * SupervisedNTXentLoss()(shared, LABELS) + shared.sum()).backward()
    torch.testing.assert_close(shared.grad, 3.0 * alone.grad + 1.0)


def test_two_of_every_label_are_two_views() -> None:
    views = _views()
    found = SupervisedNTXentLoss(0.2)(torch.cat(views), torch.arange(B).repeat(2))
    torch.testing.assert_close(found, NTXentLoss(0.2)(*views))


@pytest.mark.parametrize("labels", [torch.zeros(B, dtype=torch.long), torch.arange(B)])
def test_without_a_negative_or_a_pair_the_loss_and_its_gradient_are_zero(labels: Tensor) -> None:
    given = _views()[0]
    loss = SupervisedNTXentLoss()(given, labels)
    loss.backward()
    assert loss.item() == 0.0
    assert not given.grad.any()


@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_at_the_poles_value_and_gradient_are_finite(temperature: float, sign: float) -> None:
    direction = torch.ones(B, D)
    given = [direction.requires_grad_(), (sign * direction.detach()).requires_grad_()]
    for loss in (
        NTXentLoss(temperature)(*given),
        SupervisedNTXentLoss(temperature)(torch.cat(given), torch.arange(2 * B) // 2),
    ):
        loss.backward()
        assert loss.isfinite()
        assert all(view.grad.isfinite().all() for view in given)


def test_a_nan_reaches_the_loss() -> None:
    first, second = (view.detach() for view in _views())
    first[3, 0] = torch.nan
    assert NTXentLoss()(first, second).isnan()
    assert NTXentLoss(0.01)(first, second).isnan()
    assert SupervisedNTXentLoss()(first, LABELS).isnan()


def test_autocast_changes_no_bit() -> None:
    views = _views()
    expected = NTXentLoss()(*views), SupervisedNTXentLoss()(views[0], LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        found = NTXentLoss()(*views), SupervisedNTXentLoss()(views[0], LABELS)
    for own, other in zip(found, expected, strict=True):
        assert own.dtype is torch.float32
        assert torch.equal(own, other)


def test_an_evaluation_has_the_same_value_and_no_graph() -> None:
    views = _views()
    with torch.no_grad():
        found = NTXentLoss()(*views), SupervisedNTXentLoss()(views[0], LABELS)
    assert torch.equal(found[0], NTXentLoss()(*views))
    assert torch.equal(found[1], SupervisedNTXentLoss()(views[0], LABELS))
    assert not any(loss.requires_grad for loss in found)


def test_labels_beyond_what_a_float_can_tell_apart_are_told_apart() -> None:
    given = _views()[0]
    expected = SupervisedNTXentLoss()(given, LABELS)
    assert torch.equal(SupervisedNTXentLoss()(given, LABELS + 2**24), expected)
    assert torch.equal(SupervisedNTXentLoss()(given, LABELS + 2**53), expected)


@pytest.mark.parametrize("loss", [NTXentLoss, SupervisedNTXentLoss])
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_without_a_meaning_is_named(loss: type, temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature is {temperature}; expected a positive"):
        loss(temperature)


def test_views_of_different_images_are_refused() -> None:
    unchecked = inspect.unwrap(NTXentLoss.forward)  # without the suite's own check of shapes
    with pytest.raises(ValueError, match=r"shapes \(4, 8\) and \(3, 8\)"):
        unchecked(NTXentLoss(), torch.ones(4, 8), torch.ones(3, 8))
