"""Label-smoothed cross-entropy against a hand computation, torch, and its own gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common.losses import label_smoothed_cross_entropy, linear_cross_entropy

IGNORE = -100


def problem(
    rows: int, width: int, classes: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(classes, width, dtype=dtype, requires_grad=True)
    target = torch.randint(classes, (rows,))
    target[::5] = IGNORE
    return hidden, weight, target


def test_smoothed_loss_of_a_case_worked_by_hand() -> None:
    # softmax of these logits is (1/2, 1/4, 1/8, 1/8); the target is the second class.
    logits = torch.tensor([[4.0, 2.0, 1.0, 1.0]]).log()
    loss, weight, nll = label_smoothed_cross_entropy(logits, torch.tensor([1]), smoothing=0.1)
    # -log p is (1, 2, 3, 3) log 2, whose mean is 9/4 log 2.
    assert nll.item() == pytest.approx(2 * math.log(2))
    assert loss.item() == pytest.approx((0.9 * 2 + 0.1 * 9 / 4) * math.log(2))
    assert weight.item() == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_torch_with_targets_to_ignore_and_any_leading_shape(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 11).mul(4)
    target = torch.randint(11, (3, 5))
    target[:, 3:] = 7
    loss, weight, nll = label_smoothed_cross_entropy(logits, target, smoothing, ignore_index=7)
    flat = (logits.view(-1, 11), target.view(-1))
    options = {"ignore_index": 7, "reduction": "sum"}
    torch.testing.assert_close(
        loss, F.cross_entropy(*flat, label_smoothing=smoothing, **options), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(nll, F.cross_entropy(*flat, **options), rtol=1e-6, atol=0)
    assert weight == (target != 7).sum()


@pytest.mark.parametrize("chunk_size", [1, 7, 32, 64])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_fused_loss_equals_the_plain_one_and_torch(smoothing: float, chunk_size: int) -> None:
    hidden, weight, target = problem(32, 6, 11, torch.float32)
    fused = linear_cross_entropy(hidden, weight, target, smoothing, IGNORE, chunk_size)
    plain = label_smoothed_cross_entropy(hidden @ weight.T, target, smoothing)
    reference = F.cross_entropy(
        hidden @ weight.T, target, reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(fused, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(fused[0], reference, rtol=1e-6, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(fused[0] / fused[1], (hidden, weight)),
        torch.autograd.grad(reference / fused[1], (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_formed_in_the_forward_pass_is_the_derivative(smoothing: float) -> None:
    hidden, weight, target = problem(9, 4, 5)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, target, smoothing, chunk_size=4)[0] / 3,
        (hidden, weight),
    )


def test_the_gradient_can_be_taken_twice_from_a_retained_graph() -> None:
    hidden, weight, target = problem(9, 4, 5)
    loss, _, _ = linear_cross_entropy(hidden, weight, target, 0.1)
    first = torch.autograd.grad(3 * loss, (hidden, weight), retain_graph=True)
    second = torch.autograd.grad(3 * loss, (hidden, weight))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_the_metric_carries_no_gradient() -> None:
    hidden, weight, target = problem(9, 4, 5)
    assert not linear_cross_entropy(hidden, weight, target)[2].requires_grad
    assert not label_smoothed_cross_entropy(hidden @ weight.T, target)[2].requires_grad


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_where_all_is_ignored_the_sums_and_gradients_are_zero(smoothing: float) -> None:
    hidden, weight, target = problem(6, 4, 5)
    target[:] = IGNORE
    for result in (
        linear_cross_entropy(hidden, weight, target, smoothing),
        label_smoothed_cross_entropy(hidden @ weight.T, target, smoothing),
    ):
        assert [value.item() for value in result] == [0, 0, 0]
        for gradient in torch.autograd.grad(result[0], (hidden, weight)):
            assert not gradient.any()


def test_no_rows_at_all_give_zero() -> None:
    hidden, weight, target = problem(0, 4, 5)
    loss, count, _ = linear_cross_entropy(hidden, weight, target, 0.1)
    assert loss.item() == count.item() == 0
    assert not torch.autograd.grad(loss, weight)[0].any()


def test_an_extreme_logit_neither_overflows_nor_loses_the_loss() -> None:
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.0], [-1.0]], requires_grad=True)
    loss, _, _ = linear_cross_entropy(hidden, weight, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(2e4)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (hidden, weight)))


def test_splitting_a_batch_does_not_change_the_gradient_of_the_mean() -> None:
    hidden, weight, target = problem(20, 4, 5)
    loss, count, _ = linear_cross_entropy(hidden, weight, target, 0.1)
    (whole,) = torch.autograd.grad(loss / count, weight)
    parts = torch.zeros_like(whole)
    for rows in (slice(0, 13), slice(13, 20)):
        part, _, _ = linear_cross_entropy(hidden[rows], weight, target[rows], 0.1)
        parts += torch.autograd.grad(part, weight)[0] / count
    torch.testing.assert_close(parts, whole)


def test_autocast_multiplies_in_bfloat16_and_sums_in_float32() -> None:
    hidden, weight, target = problem(64, 16, 50, torch.float32)
    exact = linear_cross_entropy(hidden, weight, target, 0.1)
    expected = torch.autograd.grad(exact[0], (hidden, weight))
    for states in (hidden, hidden.bfloat16()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = linear_cross_entropy(states, weight, target, 0.1)
        gradients = torch.autograd.grad(low[0], (hidden, weight))
        assert low[0].dtype == gradients[1].dtype == torch.float32
        torch.testing.assert_close(low, exact, rtol=1e-2, atol=0)
        for ours, theirs in zip(gradients, expected, strict=True):
            assert (ours - theirs).norm() < 0.02 * theirs.norm()
            assert not torch.equal(ours, theirs)


class LargestTensor(TorchDispatchMode):
    """Records what the operators make: the largest result, and whether the host waited."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0
        self.waited = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numel = max(self.numel, result.numel())
        self.waited |= "_local_scalar_dense" in str(func) or "nonzero" in str(func)
        return result


@pytest.mark.parametrize("with_gradient", [True, False])
def test_no_more_than_a_chunk_of_logits_ever_exists(with_gradient: bool) -> None:
    hidden, weight, target = problem(200, 4, 300)
    with torch.set_grad_enabled(with_gradient), LargestTensor() as seen:
        loss, _, _ = linear_cross_entropy(hidden, weight, target, 0.1, chunk_size=16)
        if with_gradient:
            loss.backward()
    assert seen.numel == 16 * 300
    assert not seen.waited
    assert loss.requires_grad == with_gradient
