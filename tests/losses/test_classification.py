"""Losses of classifiers against PyTorch's, a computation by hand, and their own gradient."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight

from common.losses import (
    CrossEntropy,
    FocalLoss,
    LossConfig,
    build_loss,
    class_weights,
    expected_hits,
    soft_targets,
)
from common.utils.errors import ConfigError, DataError

WEIGHTS = [0.5, 2.0, 1.0, 3.0]


def problem(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 4, generator=generator, dtype=dtype) * 4
    return logits, torch.randint(4, (12,), generator=generator)


def soft(rows: int = 12, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 4, generator=generator, dtype=dtype).softmax(1)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["cross_entropy", "focal with gamma 0"])
def test_of_integers_it_is_torchs_mean(kind: str, smoothing: float, weights: list | None) -> None:
    logits, target = problem()
    make = CrossEntropy if kind == "cross_entropy" else lambda *args: FocalLoss(0.0, *args)
    loss, weight = make(smoothing, weights)(logits, target)
    given = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(logits, target, given, label_smoothing=smoothing)
    torch.testing.assert_close(loss / weight, expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["cross_entropy", "focal with gamma 0"])
def test_of_soft_targets_it_is_torchs_sum(
    kind: str, smoothing: float, weights: list | None
) -> None:
    logits, target = problem()[0], soft()
    make = CrossEntropy if kind == "cross_entropy" else lambda *args: FocalLoss(0.0, *args)
    loss, weight = make(smoothing, weights)(logits, target)
    given = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(logits, target, given, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    counted = 12.0 if weights is None else (target.double() @ torch.tensor(weights).double()).sum()
    assert float(weight) == pytest.approx(float(counted))


@pytest.mark.parametrize("loss", [CrossEntropy(0.1, WEIGHTS), FocalLoss(2.0, 0.1, WEIGHTS)])
def test_one_hot_targets_are_the_integers(loss: torch.nn.Module) -> None:
    logits, target = problem()
    torch.testing.assert_close(
        torch.stack(loss(logits, target)), torch.stack(loss(logits, soft_targets(target, 4)))
    )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_the_focal_loss_is_equation_5(gamma: float) -> None:
    logits, target = problem(torch.float64)
    p = logits.softmax(1)[torch.arange(12), target]
    expected = -((1 - p) ** gamma * p.log()).sum()
    loss, weight = FocalLoss(gamma)(logits, target)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
    assert weight == 12


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("size", [60.0, 1e4])
def test_the_focal_loss_is_finite_however_sure_the_network_is(gamma: float, size: float) -> None:
    logits = torch.tensor([[size, 0.0, -size], [size, 0.0, -size]], requires_grad=True)
    loss, _ = FocalLoss(gamma)(logits, torch.tensor([0, 2]))
    loss.backward()
    assert loss.item() == pytest.approx(2 * size, rel=1e-6)  # the second is wrong by as much
    assert logits.grad.isfinite().all()
    torch.testing.assert_close(logits.grad[1], torch.tensor([1.0, 0.0, -1.0]))


@pytest.mark.parametrize("is_soft", [False, True])
@pytest.mark.parametrize("loss", [CrossEntropy(0.1, WEIGHTS), FocalLoss(1.5, 0.1, WEIGHTS)])
def test_gradients_are_those_of_finite_differences(loss: torch.nn.Module, is_soft: bool) -> None:
    logits, target = problem(torch.float64)
    given = soft(dtype=torch.float64) if is_soft else target
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss.double()(z, given)[0], (logits,))


def test_under_autocast_the_sum_is_taken_in_float32() -> None:
    logits, target = problem()
    for loss in (CrossEntropy(), FocalLoss()):
        assert loss(logits.bfloat16(), target)[0].dtype == torch.float32
        assert loss(logits.bfloat16(), soft())[0].dtype == torch.float32


def test_balanced_weights_are_scikit_learns() -> None:
    labels = [0] * 50 + [1] * 7 + [2] * 3
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights([50, 7, 3]) == pytest.approx(expected.tolist())


def test_effective_numbers_are_those_of_the_paper() -> None:
    counts, beta = [5000, 500, 50, 1], 0.999
    found = class_weights(counts, "effective", beta)
    # Equation 2: E_n = 1 + beta + ... + beta^(n - 1), here added up.
    effective = [sum(beta**i for i in range(n)) for n in counts]
    assert [found[3] / w for w in found] == pytest.approx([e / effective[3] for e in effective])
    assert class_weights(counts, "effective", 0.0) == pytest.approx([1.0] * 4)


def test_square_roots_lie_between() -> None:
    weights = class_weights([100, 25, 4], "inverse_sqrt")
    assert [w / weights[0] for w in weights] == pytest.approx([1.0, 2.0, 5.0])


@pytest.mark.parametrize("kind", ["balanced", "inverse_sqrt", "effective"])
def test_examples_weigh_one_in_the_mean_also_beside_an_empty_class(kind: str) -> None:
    counts = [90, 0, 10]
    weights = class_weights(counts, kind)
    assert sum(n * w for n, w in zip(counts, weights, strict=True)) / 100 == pytest.approx(1.0)
    assert weights[1] >= max(weights)


def test_soft_hits_are_the_share_of_the_predicted_class() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    assert expected_hits(logits, torch.tensor([[0.7, 0.3], [0.6, 0.4]])).item() == pytest.approx(
        1.1
    )
    assert expected_hits(logits, torch.tensor([0, 0])).item() == 1


def test_the_configuration_names_the_loss() -> None:
    logits, target = problem()
    counts = [10, 20, 30, 40]
    loss = build_loss(LossConfig("focal", 0.1, 3.0, "balanced"), counts)
    expected = FocalLoss(3.0, 0.1, class_weights(counts))(logits, target)
    assert torch.equal(loss(logits, target)[0], expected[0])
    loss = build_loss(LossConfig(class_weights=WEIGHTS))
    assert torch.equal(loss(logits, target)[0], CrossEntropy(0.0, WEIGHTS)(logits, target)[0])
    assert build_loss(LossConfig()).state_dict() == {}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LossConfig(class_weights="balansed"), "did you mean 'balanced'"),
        (lambda: LossConfig(class_weights=[]), "expected a number"),
        (lambda: LossConfig(class_weights=[-1.0, 2.0]), "at least 0"),
        (lambda: build_loss(LossConfig(class_weights="balanced")), "images of each class"),
        (lambda: build_loss(LossConfig(class_weights=[1.0]), [3, 4]), "1 numbers for 2 classes"),
        (lambda: class_weights([0, 0]), "there are none"),
        (lambda: class_weights([1], "effective", 1.0), "less than 1"),
        (lambda: class_weights([1], "evenly"), "class_weights is 'evenly'"),
    ],
)
def test_what_makes_no_loss_is_refused(make, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loss", [CrossEntropy(0.0, [1.0, 2.0]), FocalLoss(2.0, 0.0, [1.0, 2.0])])
def test_weights_of_another_number_of_classes_are_refused(loss: torch.nn.Module) -> None:
    with pytest.raises(DataError, match="2 class weights for 4 classes"):
        loss(*problem())


def test_the_section_is_read_without_pytorch() -> None:
    code = "import sys; from common.losses import LossConfig; LossConfig(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
